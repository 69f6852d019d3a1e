"""Visits to a module are paired by their values if only their order differs.

transformers calls the rotary embedding of Gemma 3 and ModernBERT once for each kind of layer, in
the order of a set of names, which differs between processes.
"""

from __future__ import annotations

from builders import make_call, make_run, make_summary

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.visits import align_visits
from pytest_nnsight.run import Call, Run


def run_of(*seeds: int) -> Run:
    """Return a run that visits one module several times, with other numbers each time."""
    return make_run(*(visit(number, seed) for number, seed in enumerate(seeds)))


def visit(number: int, seed: int) -> Call:
    return make_call("rotary_emb", make_summary(seed=seed), visit=number)


def test_swapped_visits_are_no_drift() -> None:
    comparison = compare(run_of(1, 2), run_of(2, 1))
    assert comparison.drifts == ()
    assert comparison.bits.count == 0


def test_swapped_visits_at_every_step_are_no_drift() -> None:
    assert compare(run_of(1, 2, 3, 4, 5), run_of(2, 1, 3, 5, 4)).matches
    assert compare(run_of(1, 2, 3), run_of(3, 1, 2)).matches


def test_a_visit_with_a_value_of_its_own_is_a_drift() -> None:
    comparison = compare(run_of(1, 2, 3), run_of(2, 1, 4))
    assert [drift.label for drift in comparison.failures] == ["rotary_emb#2"]


def test_one_value_cannot_stand_for_two() -> None:
    comparison = compare(run_of(1, 2), run_of(2, 2))
    assert [drift.label for drift in comparison.failures] == ["rotary_emb"]


def test_runs_in_the_same_order_are_left_alone() -> None:
    golden, received = run_of(1, 2), run_of(1, 3)
    assert align_visits(golden, received) is received
