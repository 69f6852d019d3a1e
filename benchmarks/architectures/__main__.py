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
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.architectures.plant import FOLDER
from benchmarks.architectures.table import COLUMNS, page, rows
from benchmarks.architectures.types import TYPES
from benchmarks.child import ROOT, call, environment

_SOME = "-k=not stale"
SESSIONS: dict[str, tuple[list[str], dict[str, str]]] = {
    "written": (["--snapshot-update"], {}),
    "checked": ([], {}),
    "eager": (["--nnsight-attn=eager", _SOME], {}),
    "2 threads": (["-k=long or padded"], {"OMP_NUM_THREADS": "2"}),
    "bfloat16 written": (["--nnsight-dtype=bfloat16", "--snapshot-update", _SOME], {}),
    "bfloat16": (["--nnsight-dtype=bfloat16", "--nnsight-attn=eager", _SOME], {}),
    "planted": (["-k=short_prompt", "-pbenchmarks.architectures.plant"], {}),
}
"""For each session its options and environment; all compare with the goldens of ``written``."""

HEAD = """# Architectures

`make architectures` runs the built-in suite on a small model of {count} model types, each built by
`--nnsight-model tiny:TYPE`. It took {minutes} minutes on two cores with {releases}.
Each column is one pytest session:

| column | what is compared |
|---|---|
| written | the five tests of the suite write their goldens |
| checked | another process finds the same bits |
| eager | eager attention, with goldens of the attention that transformers chooses |
| 2 threads | two threads, with goldens of one: a long prompt |
| bfloat16 | eager attention in bfloat16, with goldens in bfloat16 |
| padded batch | the test of a padded batch in all of these |
| planted weight | one number in one linear layer is changed; the verdict must name it |"""


def main() -> None:
    """Run all sessions and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.architectures")
    parser.add_argument("types", nargs="*", default=TYPES, help="model types (default: many)")
    parser.add_argument("--write", action="store_true", help="write docs/architectures.md")
    parser.add_argument("--read", type=Path, help="read such a file instead of running anything")
    parser.add_argument("--json", type=Path, help="write the reports of all sessions to this file")
    chosen = parser.parse_args()
    found = json.loads(chosen.read.read_text()) if chosen.read else run_all(chosen.types)
    if chosen.json:
        chosen.json.write_text(json.dumps(found))
    table = rows(list(found["sessions"]["written"]), found["sessions"], found["planted"])
    text = page(table, head(found), found["builds"])
    if chosen.write:
        (ROOT / "docs" / "architectures.md").write_text(text, encoding="utf-8")
    print(text)


def run_all(types: Sequence[str]) -> dict[str, Any]:
    """Run all sessions; return their tests, the planted weights and the time in seconds."""
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        sessions = {name: run(name, types, Path(folder)) for name in SESSIONS}
        planted = {
            path.stem: json.loads(path.read_text()) for path in Path(folder, "planted").iterdir()
        }
    builds = call("benchmarks.architectures.builds:failures")
    seconds = time.perf_counter() - start
    return {"sessions": sessions, "planted": planted, "builds": builds, "seconds": seconds}


def head(found: dict[str, Any]) -> str:
    """Return the text above the table."""
    releases = ", ".join(f"{name} {metadata.version(name)}" for name in ("transformers", "torch"))
    return HEAD.format(
        count=len(found["sessions"]["written"]),
        columns=len(COLUMNS),
        releases=releases,
        minutes=round(found["seconds"] / 60),
    )


def run(name: str, types: Sequence[str], folder: Path) -> dict[str, list[Any]]:
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
    tests: dict[str, list[Any]] = {model_type: [] for model_type in types}
    for test in json.loads(report.read_text())["tests"]:
        model_type = test["test"].rpartition("[tiny-")[2].rstrip("]")  # empty with one model
        tests[model_type if len(types) > 1 else types[0]].append(test)
    report.unlink()
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return tests


if __name__ == "__main__":
    main()
