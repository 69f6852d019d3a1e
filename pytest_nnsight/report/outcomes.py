"""Name the verdicts of tests and goldens, and read them from the report of a session."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pytest_nnsight.errors import UsageError

FORMAT = 1
SAME, NOISE, STRUCTURE, DRIFT = "same", "within noise", "structure", "drift"
STRUCTURE_ONLY = "structure only, all values equal"
MISSING, ERROR, HUNG, CRASHED = "missing", "error", "hung", "crashed"
PASSED, FAILED, SKIPPED, NOT_RUN = "passed", "failed", "skipped", "not run"
VERDICTS = (PASSED, SKIPPED, SAME, NOISE, STRUCTURE, DRIFT, MISSING, NOT_RUN, ERROR, HUNG, CRASHED)
"""The verdicts of tests, from best to worst."""


def read_report(path: Path, kinds: Sequence[str] = ("report",)) -> dict[str, Any]:
    """Read a report of one of some kinds; raise `UsageError` if the file does not hold one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["kind"] in kinds and document["format"] == FORMAT:
            return dict(document)
    except (OSError, ValueError, LookupError, TypeError):
        pass
    raise UsageError(f"{path.name} is not a report of this version of pytest-nnsight")


def is_bad(verdict: str) -> bool:
    """Tell whether a verdict is worse than ``within noise``."""
    return VERDICTS.index(verdict) > VERDICTS.index(NOISE)


def count_verdicts(verdicts: Iterable[str]) -> dict[str, int]:
    """Return how often each verdict occurs, the worst first."""
    counts = Counter(verdicts)
    return {verdict: counts[verdict] for verdict in reversed(VERDICTS) if counts[verdict]}


def tests_worst_first(report: dict[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
    """Return each test of a report with its verdict and the line that explains it."""
    rows = [(test, *verdict_of(test)) for test in report["tests"]]
    return sorted(rows, key=lambda row: -VERDICTS.index(row[1]))


def verdict_of(test: dict[str, Any]) -> tuple[str, str]:
    """Return the verdict of a test in a report, and the line that explains it."""
    worst = worst_golden(test)
    outcome, line = test["outcome"], test["line"]
    if outcome == PASSED:
        return (worst["verdict"], "") if worst else (PASSED, "")
    if outcome == FAILED and worst and is_bad(worst["verdict"]):
        return worst["verdict"], worst["line"]
    return (ERROR if outcome == FAILED else outcome), line


def structural_changes(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each change of the structure alone once, with the tests that have it."""
    found: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for test in report.get("tests", ()):
        for golden in test["goldens"]:
            for change, start in golden.get("structure", {}).items():
                is_accepted = golden["verdict"] != STRUCTURE
                new = {"change": change, "start": start, "evidence": golden["evidence"]}
                new |= {"is_accepted": is_accepted, "tests": []}
                entry = found.setdefault((change, golden["evidence"], is_accepted), new)
                entry["tests"] = [*dict.fromkeys([*entry["tests"], test["test"]])]
    return list(found.values())


def worst_golden(test: dict[str, Any]) -> dict[str, Any] | None:
    """Return the worst comparison of a test, ``None`` if it compared nothing."""
    return max(test["goldens"], key=lambda golden: VERDICTS.index(golden["verdict"]), default=None)
