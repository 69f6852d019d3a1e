"""What a session says at its end about tests that passed: what differs within tolerance."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from pytest_nnsight.compare.comparison import Comparison

RECORD = "nnsight_record"
DIFFER, UNCHECKED = "nnsight_bits_differ", "nnsight_exactness_not_checked"
TIE = "nnsight_near_tie"
_HEADINGS = {
    DIFFER: "bits differ, within tolerance (--nnsight-exact makes this fail):",
    UNCHECKED: "not checked bit by bit, since something else moves numbers:",
    TIE: "a near tie fell the other way, compared up to it (--nnsight-tokens=exact: fails):",
}


def keep_record(item: pytest.Item, record: dict[str, Any]) -> None:
    """Keep the record of one comparison for the session's report."""
    item.user_properties.append((RECORD, json.dumps(record)))


def note_match(item: pytest.Item, golden: str, comparison: Comparison) -> None:
    """Keep for the summary that a run matched its golden, though not in every bit or token.

    As a user property, which reaches JUnit files and comes through from xdist's workers.
    """
    from pytest_nnsight.report.failure import bits_line
    from pytest_nnsight.report.record import record_of_match

    keep_record(item, record_of_match(golden, comparison))
    bits = comparison.bits
    if bits.count and bits.is_expected:
        item.user_properties.append((DIFFER, bits_line(comparison)))
    elif bits.reason and item.config.getoption("nnsight_exact"):
        item.user_properties.append((UNCHECKED, bits.reason))
    if comparison.flip is not None:
        item.user_properties.append((TIE, comparison.flip.closeness))


def summary_lines(reports: Iterable[Any]) -> list[str]:
    """Return the lines about all tests that passed with other bits or tokens; none as a rule."""
    told: dict[str, list[str]] = {name: [] for name in _HEADINGS}
    for report in reports:
        for name, text in getattr(report, "user_properties", ()):
            if name in told:
                told[name].append(f"  {report.nodeid}: {text}")
    return [line for name, rows in told.items() if rows for line in (_HEADINGS[name], *rows)]
