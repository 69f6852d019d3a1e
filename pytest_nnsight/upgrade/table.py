"""Turn upgrade runs into a table, JSON and an exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from pytest_nnsight.errors import visible
from pytest_nnsight.report import outcomes
from pytest_nnsight.report.outcomes import DRIFT, MISSING, NOISE, STRUCTURE, VERDICTS
from pytest_nnsight.report.terminal import change_lines
from pytest_nnsight.upgrade.upgrade_run import NOT_INSTALLED, Result, UpgradeRun

_NOT_LISTED = VERDICTS[: VERDICTS.index(NOISE)]  # passed, skipped and same
_NOT_COMPARED = VERDICTS[VERDICTS.index(MISSING) + 1 :]  # from not run to crashed


def table_rows(runs: Sequence[UpgradeRun]) -> list[list[str]]:
    """Return the number of tests by verdict as cells, the headings first.

    The last cell says why a run failed; the verdicts of such a run mean nothing.
    """
    counts = [Counter(() if run.failure else (r.verdict for r in run.results)) for run in runs]
    columns = [verdict for verdict in VERDICTS if any(count[verdict] for count in counts)]
    rows = [["combination", *columns, ""]]
    for run, count in zip(runs, counts, strict=True):
        rows.append([run.label, *(str(count[name] or "") for name in columns), run.failure])
    return rows


def table_lines(runs: Sequence[UpgradeRun]) -> Iterator[str]:
    """Yield the table as text, then the results that differ."""
    (_, *columns, _), *rows = table_rows(runs)
    width = max((len(run.label) for run in runs), default=0)
    yield "  ".join([" " * width, *columns])
    for label, *cells, failure in rows:
        padded = [cell.rjust(len(name)) for cell, name in zip(cells, columns, strict=True)]
        yield "  ".join([label.ljust(width), *([failure] if failure else padded)]).rstrip()
    for run in runs:
        if lines := [*result_lines(run)]:
            yield from ("", f"{run.label}:", *lines)


def result_lines(run: UpgradeRun) -> Iterator[str]:
    """Yield the results that differ under one combination; tests with the same line together.

    Changes of the structure alone come first, each with its tests.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for result in run.results:
        if result.verdict not in (*_NOT_LISTED, STRUCTURE):
            groups.setdefault((result.verdict, result.line), []).append(result.test)
    changes = outcomes.structural_changes(run.report or {})
    if changes := [change for change in changes if not change["is_accepted"]]:
        yield f"  {outcomes.STRUCTURE_ONLY}:"
        yield from (visible(f"  {line}") for line in change_lines(changes))
    for (verdict, line), tests in groups.items():
        yield visible(f"  {verdict}: {', '.join(tests)}")
        if line:
            yield visible(f"    {line}")


def table_json(runs: Sequence[UpgradeRun]) -> dict[str, Any]:
    """Return all upgrade runs as JSON, each with the report of its pytest session."""
    trials = [
        {
            "combination": run.combination,
            "label": run.label,
            "worst": run.worst,
            "failure": run.failure,
            "results": [asdict(result) for result in run.results],
            "report": run.report,
        }
        for run in runs
    ]
    return {"format": outcomes.FORMAT, "kind": "upgrade", "trials": trials}


def read_upgrade_runs(document: dict[str, Any]) -> list[UpgradeRun]:
    """Return the upgrade runs of a document that `table_json` made."""
    runs = []
    for entry in document["trials"]:
        results = tuple(Result(**result) for result in entry["results"])
        combination = tuple(entry["combination"])
        runs.append(UpgradeRun(combination, results, entry["failure"], entry["report"]))
    return runs


def exit_code(runs: Sequence[UpgradeRun]) -> int:
    """Return the exit code of the worst result.

    0 is the same, 1 drift, 3 an error or a hang, 4 a failed installation, 5 only another structure.
    """
    verdicts = {run.worst for run in runs}
    if NOT_INSTALLED in verdicts:
        return 4
    if not verdicts.isdisjoint(_NOT_COMPARED):
        return 3
    if STRUCTURE in verdicts and verdicts.isdisjoint((DRIFT, MISSING)):
        return 5
    return int(any(map(outcomes.is_bad, verdicts)))
