"""Run the fault benchmark: ``python -m benchmarks.faults``, or ``make faults``."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from benchmarks.faults import curve
from benchmarks.faults.bench import plant_all
from benchmarks.faults.harmless import change_all
from benchmarks.faults.models import MODELS, TINY
from benchmarks.faults.processes import (
    SETTINGS,
    Setting,
    judge_children,
    other_pythons,
    run_children,
)
from benchmarks.faults.result import Result, Results
from benchmarks.faults.strategies import COUNTS_FROM, LINES
from benchmarks.faults.subject import Subject
from benchmarks.faults.table import report


def main() -> None:
    """Run the benchmark and print its tables."""
    chosen = arguments()
    names = chosen.model or MODELS
    results = Results()
    start = time.perf_counter()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)  # two threads on two busy cores are ten times slower
    with tempfile.TemporaryDirectory() as folder:
        settings = [*SETTINGS, *other_pythons(chosen.python)] if not chosen.only else []
        results.notes += run_children(settings, names, chosen.dtype, Path(folder), say)
        for name in names:
            run_model(name, chosen, settings, Path(folder), results)
    print(report(results, COUNTS_FROM))
    say(f"{time.perf_counter() - start:.0f} s\n")
    if chosen.json:
        rows = {"faults": results.faults, "benign": results.benign}
        plain = {key: [result.plain() for result in value] for key, value in rows.items()}
        chosen.json.write_text(json.dumps(plain, indent=1), encoding="utf-8")


def run_model(
    name: str,
    chosen: argparse.Namespace,
    settings: Sequence[Setting],
    folder: Path,
    results: Results,
) -> None:
    """Run all cases of one model."""
    try:
        subject = Subject.load(name, chosen.dtype, say)
    except ModuleNotFoundError as error:
        results.notes.append(f"{name} left out: {error}")
        return
    if name in curve.MODELS and not chosen.only:
        trials = 4 if name in TINY else 2
        points = curve.measure(subject, LINES[chosen.dtype], trials, say)
        results.curves.append(curve.table(name, points))
    show = show_case if chosen.verbose else lambda result: None
    results.faults += plant_all(subject, chosen.only, chosen.all_probes, say, show)
    results.benign += change_all(subject, chosen.only, chosen.all_probes, say, show)
    results.benign += judge_children(subject, settings, folder)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--model", action="append", help=f"one of {', '.join(MODELS)}, or a spec")
    parser.add_argument(
        "--only", action="append", default=[], help="a glob of fault names; may be given twice"
    )
    parser.add_argument("--dtype", default="float32", choices=sorted(LINES))
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        help="the Python of another environment, to test its versions",
    )
    parser.add_argument("--all-probes", action="store_true", help="short and long prompts for all")
    parser.add_argument("--json", type=Path, help="write every case to this file")
    parser.add_argument("--verbose", action="store_true", help="print every case")
    return parser.parse_args()


def say(text: str) -> None:
    """Print progress."""
    print(text, end="", flush=True)


def show_case(result: Result) -> None:
    """Print one case."""
    if result.error:
        print(f"  ERROR {result.case} | {result.name}: {result.error}", flush=True)
        return
    print(
        f"  {result.case} | {result.name} | size {result.size:.1e} first {result.first_differing} "
        f"truth {'/'.join(result.starts)} {'/'.join(result.causes)} | ours {result.where} "
        f"{result.cause} ({result.evidence[:60]}) {result.seconds:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
