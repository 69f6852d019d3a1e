"""Trials -> the table that is printed, its JSON, and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_nnsight.errors import visible
from pytest_nnsight.report.outcomes import (
    CRASHED,
    DRIFT,
    ERROR,
    HUNG,
    MISSING,
    NOISE,
    NOT_RUN,
    PASSED,
    SAME,
    SKIPPED,
    STRUCTURE,
    VERDICTS,
)
from pytest_nnsight.upgrade.upgrade_run import NOT_INSTALLED, Result, UpgradeRun

FORMAT = 1
EXIT_CODES = {
    **dict.fromkeys((SAME, PASSED, SKIPPED, NOISE), 0),
    **dict.fromkeys((DRIFT, STRUCTURE, MISSING), 1),
    **dict.fromkeys((ERROR, HUNG, CRASHED, NOT_RUN), 3),
    NOT_INSTALLED: 4,
}
_GOOD = (SAME, PASSED, SKIPPED)


def table_lines(trials: Sequence[UpgradeRun]) -> Iterator[str]:
    """Yield how many tests came to what, a line a combination; then each that is not the same."""
    columns = _columns(trials)
    width = max((len(trial.label) for trial in trials), default=0)
    yield "  ".join([" " * width, *columns])
    for trial in trials:
        counts = _counts(trial)
        cells = [str(counts[name] or "").rjust(len(name)) for name in columns]
        told = [trial.failure] if trial.failure else cells
        yield "  ".join([trial.label.ljust(width), *told]).rstrip()
    for trial in trials:
        lines = [*result_lines(trial)]
        if lines:
            yield from ("", f"{trial.label}:", *lines)


def result_lines(trial: UpgradeRun) -> Iterator[str]:
    """Yield what is not the same under one combination; tests that say the same together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for result in trial.results:
        if result.verdict not in _GOOD:
            alike.setdefault((result.verdict, result.line), []).append(result.test)
    for (verdict, line), tests in alike.items():
        yield visible(f"  {verdict}: {', '.join(tests)}")
        if line:
            yield visible(f"    {line}")


def _columns(trials: Sequence[UpgradeRun]) -> list[str]:
    return [verdict for verdict in VERDICTS if any(_counts(trial)[verdict] for trial in trials)]


def _counts(trial: UpgradeRun) -> Counter[str]:
    """Count what the tests came to, which means nothing where the run was not what was meant."""
    return Counter() if trial.failure else Counter(result.verdict for result in trial.results)


def table_json(trials: Sequence[UpgradeRun]) -> dict[str, Any]:
    """Return all of the trials, with the report of each, as plain JSON."""
    return {
        "format": FORMAT,
        "kind": "upgrade",
        "trials": [
            {
                "combination": list(trial.combination),
                "label": trial.label,
                "worst": trial.worst,
                "failure": trial.failure,
                "results": [
                    {"test": r.test, "verdict": r.verdict, "line": r.line} for r in trial.results
                ],
                "report": trial.report,
            }
            for trial in trials
        ],
    }


def upgrade_runs_of(document: dict[str, Any]) -> list[UpgradeRun]:
    """Return the trials that `table_json` has written."""
    return [
        UpgradeRun(
            tuple(trial["combination"]),
            tuple(Result(r["test"], r["verdict"], r["line"]) for r in trial["results"]),
            trial["failure"],
            trial["report"],
        )
        for trial in document["trials"]
    ]


def summary_rows(trials: Sequence[UpgradeRun]) -> list[list[str]]:
    """Return the table as cells, the head first, for a page that draws tables itself."""
    columns = _columns(trials)
    rows = [["combination", *columns, ""]]
    for trial in trials:
        counts = _counts(trial)
        rows.append([trial.label, *(str(counts[n] or "") for n in columns), trial.failure])
    return rows


def exit_code(trials: Sequence[UpgradeRun]) -> int:
    """Return 0 for the same, 1 for drift, 3 for errors and hangs, 4 for what is not installed."""
    return max((EXIT_CODES[trial.worst] for trial in trials), default=0)
