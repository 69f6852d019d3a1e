"""Run the suite on many architectures: ``python -m benchmarks.architectures``.

Each column of the table is one pytest session with all models. ``--write`` writes
docs/architectures.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.architectures.plant import FOLDER
from benchmarks.architectures.table import page, verdicts
from benchmarks.architectures.types import TYPES
from benchmarks.child import ROOT, environment

Tests = Mapping[str, list[dict[str, Any]]]
"""For each model, its tests in the JSON report."""
SESSIONS: dict[str, tuple[list[str], dict[str, str]]] = {
    "written": (["--snapshot-update"], {}),
    "checked": ([], {}),
    "eager": (["--nnsight-attn=eager"], {}),
    "2 threads": ([], {"OMP_NUM_THREADS": "2"}),
    "bfloat16 written": (["--nnsight-dtype=bfloat16", "--snapshot-update"], {}),
    "bfloat16": (
        ["--nnsight-dtype=bfloat16", "--nnsight-attn=eager"],
        {"OMP_NUM_THREADS": "2"},
    ),
    "planted": (["-k=short_prompt", "-pbenchmarks.architectures.plant"], {}),
}
"""For each session its options and environment; all compare with the goldens of ``written``."""


def main() -> None:
    """Run all sessions and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures")
    parser.add_argument("types", nargs="*", default=TYPES, help="model types (default: many)")
    parser.add_argument("--write", action="store_true", help="write docs/architectures.md")
    parser.add_argument("--json", type=Path, help="write the reports of all sessions to this file")
    chosen = parser.parse_args()
    with TemporaryDirectory() as folder:
        results = {name: run(name, chosen.types, Path(folder)) for name in SESSIONS}
        planted = {
            path.stem: json.loads(path.read_text()) for path in Path(folder, "planted").iterdir()
        }
    if chosen.json:
        chosen.json.write_text(json.dumps({"sessions": results, "planted": planted}))
    text = page(verdicts(chosen.types, results, planted))
    if chosen.write:
        (ROOT / "docs" / "architectures.md").write_text(text, encoding="utf-8")
    print(text)


def run(name: str, types: list[str], folder: Path) -> Tests:
    """Run one session in a folder of its own, and return its tests by model."""
    options, variables = SESSIONS[name]
    start = time.perf_counter()
    report = folder / "report.json"
    (folder / "planted").mkdir(exist_ok=True)
    models = [f"--nnsight-model=tiny:{model_type}" for model_type in types]
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-n2", "--nnsight-suite"]
    command += ["-p", "no:cacheprovider", f"--nnsight-report={report}", *models, *options]
    variables = {FOLDER: str(folder / "planted"), **variables}
    done = subprocess.run(
        command, cwd=folder, env=environment(**variables), capture_output=True, text=True
    )
    if not report.exists():
        raise RuntimeError(f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    tests: dict[str, list[dict[str, Any]]] = {model_type: [] for model_type in types}
    for test in json.loads(report.read_text())["tests"]:
        tests[test["test"].rpartition("[tiny-")[2].rstrip("]")].append(test)
    report.unlink()
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return tests


if __name__ == "__main__":
    main()
