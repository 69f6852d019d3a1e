"""What a session says at its end about tests that passed: bits that differ within tolerance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from pytest_nnsight.compare.comparison import Comparison

DIFFER, UNCHECKED = "nnsight_bits_differ", "nnsight_exactness_not_checked"


def note_bits(item: pytest.Item, comparison: Comparison) -> None:
    """Keep for the summary that a run matched its golden, though not bit by bit.

    As a user property, which reaches JUnit files and comes through from xdist's workers.
    """
    from pytest_nnsight.report.failure import bits_line

    bits = comparison.bits
    if bits.count and bits.is_expected:
        item.user_properties.append((DIFFER, bits_line(comparison)))
    elif bits.reason and item.config.getoption("nnsight_exact"):
        item.user_properties.append((UNCHECKED, bits.reason))


def summary_lines(reports: Iterable[Any]) -> list[str]:
    """Return the lines about all tests that passed with other bits; none as a rule."""
    differ, unchecked = [], []
    for report in reports:
        for name, text in getattr(report, "user_properties", ()):
            if name == DIFFER:
                differ.append(f"  {report.nodeid}: {text}")
            elif name == UNCHECKED:
                unchecked.append(f"  {report.nodeid}: {text}")
    lines = []
    if differ:
        lines += ["bits differ, within tolerance (--nnsight-exact makes this fail):", *differ]
    if unchecked:
        lines += ["not checked bit by bit, since something else moves numbers:", *unchecked]
    return lines
