"""What a session says at its end about tests that passed: what differs within tolerance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from pytest_nnsight.compare.comparison import Comparison

DIFFER, UNCHECKED = "nnsight_bits_differ", "nnsight_exactness_not_checked"
TIE = "nnsight_near_tie"
_HEADINGS = {
    DIFFER: "bits differ, within tolerance (--nnsight-exact makes this fail):",
    UNCHECKED: "not checked bit by bit, since something else moves numbers:",
    TIE: "a near tie fell the other way, compared up to it (--nnsight-tokens=exact: fails):",
}


def note_match(item: pytest.Item, comparison: Comparison) -> None:
    """Keep for the summary that a run matched its golden, though not in every bit or token.

    As a user property, which reaches JUnit files and comes through from xdist's workers.
    """
    from pytest_nnsight.report.failure import bits_line

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
