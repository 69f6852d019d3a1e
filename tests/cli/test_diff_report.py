"""What ``diff`` tells of two generations that part in a near tie, which is no drift."""

from __future__ import annotations

import pytest
from builders import make_greedy

from pytest_nnsight.cli import diff
from pytest_nnsight.cli.diff import Side, differences


def test_a_near_tie_that_fell_the_other_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """After it nothing can be compared, so that few of the calls differ."""
    runs = [make_greedy(5, 6, 7, margin=0.0), make_greedy(5, 9, 8, margin=0.0, tokens="close")]
    found = iter([([run], {}) for run in runs])
    monkeypatch.setattr(diff, "_runs", lambda *arguments: next(found))
    side = Side.read("tiny:gpt2", "")
    (found,) = differences((side, side), ["Hello"], 3, print)
    assert not found.drifts
    assert [*found.lines()] == [
        "generate of 'Hello':",
        "  same: 3 calls, bit by bit",
        "  compared up to a near tie at step 1: ' 6' -> ' 9', margin 0, noise 0",
    ]
