"""The words for how a test and its goldens ended, and the report of a session that holds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_nnsight.errors import UsageError

FORMAT = 1
SAME, NOISE, DRIFT, STRUCTURE = "same", "within noise", "drift", "structure"
MISSING, ERROR, HUNG, CRASHED = "missing", "error", "hung", "crashed"
PASSED, FAILED, SKIPPED, NOT_RUN = "passed", "failed", "skipped", "not run"
VERDICTS = (
    PASSED,
    SKIPPED,
    SAME,
    NOISE,
    DRIFT,
    STRUCTURE,
    MISSING,
    NOT_RUN,
    ERROR,
    HUNG,
    CRASHED,
)
"""What a test comes to, from best to worst."""


def read_report(path: Path, kinds: Sequence[str] = ("report",)) -> dict[str, Any]:
    """Read the report of a session, or of another kind. Raise `UsageError` for what is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["kind"] in kinds and document["format"] == FORMAT:
            return dict(document)
    except (OSError, ValueError, LookupError, TypeError):
        pass
    raise UsageError(f"{path.name} is no report of this version of pytest-nnsight")


def verdict_of(test: dict[str, Any]) -> tuple[str, str]:
    """Return what a test of a report comes to, and the line that tells of it."""
    worst = worst_golden(test)
    outcome, line = test["outcome"], test["line"]
    if outcome == PASSED:
        return (worst["verdict"], "") if worst else (PASSED, "")
    if outcome == FAILED and worst and VERDICTS.index(worst["verdict"]) > VERDICTS.index(NOISE):
        return worst["verdict"], worst["line"]
    return (ERROR if outcome == FAILED else outcome), line


def worst_golden(test: dict[str, Any]) -> dict[str, Any] | None:
    """Return the comparison of a test that came out worst, ``None`` where it compared nothing."""
    return max(test["goldens"], key=lambda golden: VERDICTS.index(golden["verdict"]), default=None)
