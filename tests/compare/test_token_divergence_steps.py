"""Only the calls of the steps up to a divergence are compared."""

from __future__ import annotations

from collections import Counter

import pytest
from builders import make_call, make_generation, make_greedy, make_steps, make_summary

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.token_divergence import calls_until


@pytest.mark.parametrize(("step", "calls"), [(0, 1), (1, 2), (2, 3), (3, 3)])
def test_calls_of_a_step_are_those_of_its_visit(step: int, calls: int) -> None:
    assert calls_until(make_greedy(5, 6, 7), step) == calls


def test_a_module_that_is_called_twice_a_step_counts_two_visits() -> None:
    calls = [
        call
        for step in range(3)
        for call in (
            make_call("norm", visit=2 * step),
            make_call("norm", visit=2 * step + 1),
            make_call("lm_head", visit=step),
        )
    ]
    run = make_generation(5, 6, 7, calls=tuple(calls))
    assert [calls_until(run, step) for step in range(3)] == [3, 6, 9]


def test_a_step_ends_with_the_second_call_of_a_module_called_twice() -> None:
    calls = tuple(make_call("norm", visit=visit) for visit in range(6))
    run = make_generation(5, 6, 7, calls=calls)
    assert [calls_until(run, step) for step in range(3)] == [2, 4, 6]


def test_without_steps_or_calls_there_are_no_calls() -> None:
    assert calls_until(make_greedy(5, 6, 7), -1) == 0
    assert calls_until(make_generation(5, 6, calls=()), 1) == 0
    assert calls_until(make_generation(calls=make_steps(2)), 0) == 2


def test_a_module_that_is_called_once_belongs_to_the_first_step() -> None:
    """An encoder is an example; the other modules show where the step ends."""
    calls = (make_call("encoder"), *make_steps(3))
    assert calls_until(make_generation(5, 6, 7, calls=calls), 0) == 2


def test_all_visits_of_an_encoder_belong_to_the_first_step() -> None:
    """Even if there are as many visits as steps, as for T5's dropout with two new tokens."""
    paths = ("encoder.dropout", "encoder.dropout", "decoder", "lm_head", "decoder", "lm_head")
    visits: Counter[str] = Counter()
    calls = []
    for path in paths:
        calls.append(make_call(path, visit=visits[path]))
        visits[path] += 1
    run = make_generation(5, 6, calls=tuple(calls))
    assert [calls_until(run, step) for step in range(2)] == [4, 6]


def test_a_shared_embedding_belongs_to_the_step_it_is_called_in() -> None:
    """It is called once more than there are steps."""
    calls = [make_call("shared"), make_call("encoder")]
    for step in range(3):
        calls += [make_call("shared", visit=step + 1), make_call("lm_head", visit=step)]
    run = make_generation(5, 6, 7, calls=tuple(calls))
    assert [calls_until(run, step) for step in range(3)] == [4, 6, 8]


def test_calls_after_the_divergence_are_not_compared() -> None:
    """They continue another text, so they must differ."""
    golden = make_generation(5, 6, 7, 8, calls=make_steps(4))
    drifting = make_steps(2) + tuple(
        make_call("lm_head", make_summary(shape=(1, 1, 64), seed=step + 50), visit=step)
        for step in (2, 3)
    )
    comparison = compare(golden, make_generation(5, 9, 7, 8, calls=drifting))
    assert [(d.kind, d.label) for d in comparison.failures] == [("ids", "generated")]
    assert [position for position, _ in comparison.values] == [0, 1]
    assert comparison.calls == 4
    same_ids = make_generation(5, 6, 7, 8, calls=drifting)
    assert {d.label for d in compare(golden, same_ids).failures} == {"lm_head#2", "lm_head#3"}


def test_a_drift_before_the_divergence_still_fails() -> None:
    found = compare(make_greedy(5, 6, 7), make_greedy(5, 9, 7, noise=1e-3)).failures
    assert [drift.label for drift in found] == ["lm_head", "lm_head#1", "generated"]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ((5, 6), (5, 7, 8)),
        ((5, 6), (5, 7)),
        ((5, 6, 7), (5, 8)),
        ((5, 6, 7), (5, 6)),
        ((5, 6), (5, 6, 7)),
    ],
    ids=["longer", "last", "shorter", "ends-early", "ends-late"],
)
def test_a_generation_of_another_length_has_no_missing_calls(
    before: tuple[int, ...], now: tuple[int, ...]
) -> None:
    """Steps that only one run has are a result of the different token."""
    found = compare(make_greedy(*before), make_greedy(*now)).failures
    assert [(drift.kind, drift.label) for drift in found] == [("ids", "generated")]
