"""Steps of a generation, as a test writes them."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.capture.steps import Steps
from pytest_nnsight.errors import UsageError


@pytest.mark.parametrize(
    ("argument", "chosen", "text"),
    [
        (3, [3], "[3]"),
        ([4, 0, 4], [0, 4], "[0, 4]"),
        (range(2), [0, 1], "[0, 1]"),
        (slice(2, 5), [2, 3, 4], "2:5"),
        (slice(None), [0, 1, 2, 3, 4, 5], ":"),
        (slice(1, None, 2), [1, 3, 5], "1::2"),
        (slice(None, 5, 3), [0, 3], ":5:3"),
    ],
)
def test_selected_steps(argument: Any, chosen: list[int], text: str) -> None:
    steps = Steps.of(argument, "steps")
    assert steps is not None
    assert [step for step in range(6) if step in steps] == chosen
    assert str(steps) == text
    wanted = steps.for_nnsight(6)
    assert (list(range(6))[wanted] if isinstance(wanted, slice) else wanted) == chosen


@pytest.mark.parametrize(
    "argument", [-1, [], [0, -2], "3", [1.5], True, slice(-2, None), slice(0, 4, 0)]
)
def test_wrong_steps_are_one_line(argument: Any) -> None:
    with pytest.raises(
        UsageError, match=r"steps=.* is not a step of a generation; give numbers from 0"
    ):
        Steps.of(argument, "steps")


def test_steps_without_an_intervention_are_one_line(gpt2: Capture) -> None:
    with pytest.raises(UsageError, match="intervene_at says when to intervene"):
        gpt2.generate("Hello", intervene_at=2)


def test_a_step_that_did_not_run_is_one_line(gpt2: Capture) -> None:
    with pytest.raises(UsageError, match=r"steps=\[5\] asks for step 5, but 2 steps ran"):
        gpt2.generate("Hello", max_new_tokens=2, steps=5)
