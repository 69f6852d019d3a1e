"""Turn upgrade runs into a table, JSON and an exit code."""

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
_NOT_LISTED = (SAME, PASSED, SKIPPED)


def table_lines(runs: Sequence[UpgradeRun]) -> Iterator[str]:
    """Yield a table with the number of tests by verdict, then the results that differ."""
    columns = _columns(runs)
    width = max((len(run.label) for run in runs), default=0)
    yield "  ".join([" " * width, *columns])
    for run in runs:
        counts = _counts(run)
        cells = [str(counts[verdict] or "").rjust(len(verdict)) for verdict in columns]
        yield "  ".join(
            [run.label.ljust(width), *([run.failure] if run.failure else cells)]
        ).rstrip()
    for run in runs:
        if lines := [*result_lines(run)]:
            yield from ("", f"{run.label}:", *lines)


def result_lines(run: UpgradeRun) -> Iterator[str]:
    """Yield the results that differ under one combination; tests with the same line together."""
    groups: dict[tuple[str, str], list[str]] = {}
    for result in run.results:
        if result.verdict not in _NOT_LISTED:
            groups.setdefault((result.verdict, result.line), []).append(result.test)
    for (verdict, line), tests in groups.items():
        yield visible(f"  {verdict}: {', '.join(tests)}")
        if line:
            yield visible(f"    {line}")


def _columns(runs: Sequence[UpgradeRun]) -> list[str]:
    return [verdict for verdict in VERDICTS if any(_counts(run)[verdict] for run in runs)]


def _counts(run: UpgradeRun) -> Counter[str]:
    """Count the tests by verdict; none for a failed run, whose verdicts mean nothing."""
    return Counter() if run.failure else Counter(result.verdict for result in run.results)


def table_json(runs: Sequence[UpgradeRun]) -> dict[str, Any]:
    """Return all upgrade runs as JSON, each with the report of its pytest session."""
    return {
        "format": FORMAT,
        "kind": "upgrade",
        "trials": [
            {
                "combination": list(run.combination),
                "label": run.label,
                "worst": run.worst,
                "failure": run.failure,
                "results": [
                    {"test": r.test, "verdict": r.verdict, "line": r.line} for r in run.results
                ],
                "report": run.report,
            }
            for run in runs
        ],
    }


def read_upgrade_runs(document: dict[str, Any]) -> list[UpgradeRun]:
    """Return the upgrade runs of a document that `table_json` made."""
    return [
        UpgradeRun(
            tuple(entry["combination"]),
            tuple(Result(r["test"], r["verdict"], r["line"]) for r in entry["results"]),
            entry["failure"],
            entry["report"],
        )
        for entry in document["trials"]
    ]


def summary_rows(runs: Sequence[UpgradeRun]) -> list[list[str]]:
    """Return the table as cells, the headings first."""
    columns = _columns(runs)
    rows = [["combination", *columns, ""]]
    for run in runs:
        counts = _counts(run)
        rows.append([run.label, *(str(counts[name] or "") for name in columns), run.failure])
    return rows


def exit_code(runs: Sequence[UpgradeRun]) -> int:
    """Return 0 for the same, 1 for drift, 3 for errors and hangs, 4 for a failed installation."""
    return max((EXIT_CODES[run.worst] for run in runs), default=0)
