"""``diff`` of two generations that diverge at a near tie: it is reported, and is not a drift."""

from __future__ import annotations

import pytest
from builders import make_greedy

from pytest_nnsight.cli import diff
from pytest_nnsight.cli.diff import Side, differences


def test_a_near_tie_ends_the_comparison_without_a_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls after the divergent token see other inputs, so they cannot be compared."""
    runs = [make_greedy(5, 6, 7, margin=0.0), make_greedy(5, 9, 8, margin=0.0, tokens="close")]
    found = iter([([run], {}) for run in runs])
    monkeypatch.setattr(diff, "_capture_runs", lambda *arguments: next(found))
    side = Side.parse("tiny:gpt2", "")
    (found,) = differences((side, side), ["Hello"], 3, print)
    assert not found.is_drift
    assert [*found.lines()] == [
        "generate of 'Hello':",
        "  same: 3 calls, bit by bit",
        "  compared up to a near tie at step 1: ' 6' -> ' 9', margin 0, noise 0",
    ]
