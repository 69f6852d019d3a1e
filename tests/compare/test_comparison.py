"""A comparison of two runs lists their drifts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import (
    OTHER_THREADS,
    drift_from,
    make_call,
    make_forward,
    make_pass,
    make_run,
    make_summary,
    normal,
    summarize,
)

from pytest_nnsight.compare.comparison import Comparison, compare
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.run import Leaf, Run


def only(comparison: Comparison) -> Drift:
    """Return the only drift."""
    assert len(comparison.drifts) == 1, comparison.drifts
    return comparison.drifts[0]


def test_identical_runs_match() -> None:
    comparison = compare(make_run(), make_run())
    assert (comparison.matches, comparison.drifts, comparison.noise) == (True, (), 0.0)
    assert comparison.calls == 1
    assert comparison.divergence is None


def test_values_over_the_tolerance_fail() -> None:
    drift = only(compare(make_run(), make_run(make_call(summary=make_summary(noise=1e-3)))))
    assert (drift.kind, drift.label, drift.note, drift.allowed) == ("values", "h.0", False, 1e-5)
    assert (drift.path, drift.position) == ("h.0", 0)
    assert 0.5e-3 < drift.rel < 2e-3
    assert drift.expected != drift.received


def test_values_under_the_tolerance_pass_and_count_as_noise() -> None:
    comparison = compare(make_run(), make_run(make_call(summary=make_summary(noise=3e-6))))
    assert comparison.matches
    assert comparison.drifts == ()
    assert 1e-6 < comparison.noise < 1e-5
    assert comparison.bits.count == 1


def test_noise_is_the_largest_drift_of_a_tensor() -> None:
    noise = [1e-7, 4e-6, 1e-6]
    golden = make_run(*(make_call(f"h.{i}") for i in range(3)))
    calls = [make_call(f"h.{i}", make_summary(noise=n)) for i, n in enumerate(noise)]
    comparison = compare(golden, make_run(*calls))
    assert comparison.noise == comparison.values[1, "out"].rms


def test_a_drift_names_its_worst_token() -> None:
    x = normal(1, 7, 64)
    y = x.clone()
    y[0, 4] *= 1.5
    golden, received = (make_run(make_call(summary=summarize(z))) for z in (x, y))
    drift = only(compare(golden, received))
    assert drift.distance.token == 4
    assert drift.distance.worst == pytest.approx(1 / 3, rel=0.5)


def test_within_replaces_the_default_tolerance() -> None:
    received = make_run(make_call(summary=make_summary(noise=1e-3)))
    assert not compare(make_run(), received).matches
    assert compare(make_run(), received.within(1e-2)).matches
    assert compare(make_run(), received.within(1e-2)).tolerance.is_explicit
    assert not compare(make_run(), received.within(1e-4)).matches


def test_the_tolerance_of_the_golden_is_ignored() -> None:
    """Only the received run has the tolerance of the test."""
    received = make_run(make_call(summary=make_summary(noise=1e-3)))
    assert not compare(make_run().within(0.1), received).matches


def test_inputs_are_compared_by_location() -> None:
    leaves = (Leaf("in.0", make_summary()), Leaf("out", make_summary()))
    golden = make_run(make_call(leaves=leaves, inputs="{0=tensor}"))
    changed = (Leaf("in.0", make_summary(noise=1e-2)), leaves[1])
    received = make_run(make_call(leaves=changed, inputs="{0=tensor}"))
    assert only(compare(golden, received)).label == "h.0 in.0"


def test_inputs_that_one_run_did_not_record_are_ignored() -> None:
    """They do not count as equal. Otherwise a drift in an input would seem to start in the call."""
    leaves = (Leaf("in.0", make_summary(seed=1)), Leaf("out", make_summary()))
    full = make_run(make_call(leaves=leaves, inputs="{0=tensor}"), make_call("h.1"))
    few = make_run(make_call(leaves=leaves[1:]), make_call("h.1", inputs="{}"))
    for golden, received in ((full, few), (few, full)):
        comparison = compare(golden, received)
        assert comparison.matches
        assert comparison.bits.count == 0
        assert [value.leaf.at for value in comparison.timeline] == ["out", "out"]


def test_drifts_come_in_the_order_of_execution() -> None:
    calls = [make_call(f"h.{i}") for i in range(5)]
    changed = [make_call(f"h.{i}", make_summary(noise=1e-2)) for i in range(5)]
    drifts = compare(make_run(*calls), make_run(*reversed(changed))).failures
    assert [(drift.label, drift.position) for drift in drifts] == [(f"h.{i}", i) for i in range(5)]


def test_integers_that_differ_fail_at_any_tolerance() -> None:
    golden = make_run(make_call(summary=summarize(torch.tensor([1, 2, 3]))))
    received = make_run(make_call(summary=summarize(torch.tensor([1, 3, 2]))))
    drift = only(compare(golden, received.within(0.5)))
    assert (drift.rel, drift.allowed) == (math.inf, 0.0)


def test_every_tensor_is_compared_once() -> None:
    comparison = compare(make_pass(), make_pass())
    leaves = [(i, leaf.at) for i, call in enumerate(make_forward()) for leaf in call.leaves]
    assert list(comparison.values) == leaves
    assert all(value.is_same for value in comparison.values.values())


def test_a_token_that_drifts_in_many_values_fails_within_the_tolerance_of_all_tokens() -> None:
    """Each single estimate would pass; the average of 8 fails."""
    shape = (1, 100, 64)

    def run_of(size: float) -> Run:
        calls = []
        for seed in range(20):
            x = normal(*shape, seed=seed)
            x[0, 41] += size * normal(64, seed=seed + 100)
            calls.append(make_call(f"h.{seed}", summarize(x)))
        return make_run(*calls, environment=OTHER_THREADS if size else {})

    comparison = compare(run_of(0), run_of(2e-5))
    assert {drift.distance.pooled_token for drift in comparison.failures} == {41}
    assert all(drift.distance.rms < 1e-5 for drift in comparison.failures)
    assert any(drift.distance.worst < 3e-5 for drift in comparison.failures)


def spiked(noise: float, spike: float, **changes: Any) -> Run:
    """Return a run of 20 values that drift a little, one of them more."""
    drifts = [spike if i == 9 else noise for i in range(20)]
    shape = (1, 100, 64)
    calls = [make_call(f"h.{i}", make_summary(d, shape, i)) for i, d in enumerate(drifts)]
    return make_run(*calls, **changes)


def test_a_single_value_that_drifts_does_not_fail_its_successors() -> None:
    """The seven values after it are pooled with it, but do not drift themselves."""
    comparison = compare(spiked(0, 0), spiked(1e-7, 1e-3, environment=OTHER_THREADS))
    assert [drift.label for drift in comparison.failures] == ["h.9"]


def test_a_value_with_measured_noise_does_not_fail_others() -> None:
    golden = spiked(0, 0, calibration=("2 threads",))
    noisy = golden.calls[9].leaves[0].summary._replace(noise=1e-4)
    calls = list(golden.calls)
    calls[9] = make_call("h.9", noisy)
    golden = replace(golden, calls=tuple(calls))
    assert compare(golden, spiked(1e-7, 2e-4, environment=OTHER_THREADS)).failures == ()


def test_every_value_after_the_start_of_a_drift_fails() -> None:
    start = "model.layers.1.mlp.down_proj in.0"
    comparison = compare(make_pass(), make_pass(drift_from(start)))
    assert comparison.failures[0].label == "model.layers.1.mlp.down_proj in.0"
    assert {drift.kind for drift in comparison.failures} == {"values"}
    assert comparison.bits.count == len({drift.position for drift in comparison.failures}) == 7


@pytest.mark.parametrize(
    ("distance", "rel"),
    [
        (Distance(rms=2.0, worst=5.0), 2.0),
        (Distance(rms=0.5, worst=5.0), 5.0),
        (Distance(rms=0.5, worst=5.0, pooled=3.0), 3.0),
        (Distance(rms=0.5, worst=5.0, pooled=0.9), 5.0),
        (Distance(rms=0.0, worst=0.0), 0.0),
    ],
    ids=["all", "one", "pooled", "pooled-below", "none"],
)
def test_the_size_of_a_drift_is_the_estimate_that_exceeds_the_tolerance(
    distance: Distance, rel: float
) -> None:
    assert Drift("values", "h", distance=distance, allowed=1.0).rel == rel
