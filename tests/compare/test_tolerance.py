"""How much drift is allowed: by dtype, by measured noise, by the tolerance of the test."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from builders import (
    distance,
    drift_from,
    make_call,
    make_forward,
    make_run,
    make_summary,
    no_drift,
    normal,
    summarize,
    summarize_all,
)

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.distance import INFINITE, SAME, Distance
from pytest_nnsight.compare.drift import leaf_label
from pytest_nnsight.compare.timeline import timeline
from pytest_nnsight.compare.tolerance import Tolerance, has_half_type, tolerance_for
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import Run, Summary

ONE_TOKEN = make_summary(shape=(1, 1, 64))
SEVEN = make_summary(shape=(1, 7, 64))
MANY = make_summary(shape=(1, 100, 64))


def of_dtypes(golden: str, received: str, *calibration: str) -> Tolerance:
    before = make_run(environment={"dtype": golden}, calibration=calibration)
    return tolerance_for(before, make_run(environment={"dtype": received}), True)


@pytest.mark.parametrize(
    ("golden", "received", "tolerance"),
    [
        ("float64", "float64", 1e-6),
        ("float32", "float32", 1e-5),
        ("float16", "float16", 8e-3),
        ("bfloat16", "bfloat16", 6e-2),
        ("float8_e4m3fn", "float8_e4m3fn", 1e-1),
        ("none", "none", 1e-5),
        ("float32", "bfloat16", 6e-2),
        ("bfloat16", "float32", 6e-2),
        ("float64", "float32", 1e-5),
        ("float16", "bfloat16", 6e-2),
    ],
)
def test_default_is_that_of_the_coarser_dtype(golden: str, received: str, tolerance: float) -> None:
    found = of_dtypes(golden, received)
    assert (found.rel, found.is_explicit, found.floor) == (tolerance, False, None)


def test_the_tolerance_of_the_test_overrides_the_dtype() -> None:
    received = make_run(environment={"dtype": "bfloat16"}).within(1e-4)
    found = tolerance_for(make_run(calibration=("2 threads",)), received, True)
    assert found == Tolerance(1e-4, is_explicit=True)


@pytest.mark.parametrize("tolerance", [-1e-9, 1, 2.0, math.nan, math.inf])
def test_within_refuses_an_invalid_tolerance(tolerance: float) -> None:
    with pytest.raises(UsageError, match=r"^tolerance must be in \[0, 1\), got "):
        make_run().within(tolerance)


def test_within_does_not_change_the_run() -> None:
    run = make_run()
    assert (run.within(1e-2).tolerance, run.tolerance) == (1e-2, None)


@pytest.mark.parametrize(
    ("dtype", "floor"),
    [("float64", 1e-6), ("float32", 1e-5), ("float16", 5e-4), ("bfloat16", 4e-3), ("odd", 1e-1)],
)
def test_measured_noise_lowers_the_tolerance_of_half_types(dtype: str, floor: float) -> None:
    found = of_dtypes(dtype, dtype, "2 threads")
    assert found.floor == floor
    assert found.allowed_for(SEVEN) == floor
    assert found.allowed_for(SEVEN._replace(noise=floor)) == pytest.approx(5 * floor)


def test_noise_of_a_golden_that_was_not_calibrated_is_ignored() -> None:
    assert of_dtypes("float32", "float32").allowed_for(SEVEN._replace(noise=0.1)) == 1e-5


def test_the_tolerance_of_the_test_overrides_measured_noise() -> None:
    explicit = Tolerance(1e-4, is_explicit=True, floor=1e-5)
    assert explicit.allowed_for(SEVEN._replace(noise=0.1)) == 1e-4


def test_the_drift_of_all_tokens_may_equal_the_tolerance() -> None:
    tolerance = Tolerance(1e-3, is_explicit=True)
    assert not tolerance.is_exceeded(Distance(rms=1e-3), SEVEN)
    assert tolerance.is_exceeded(Distance(rms=1.001e-3), SEVEN)


@pytest.mark.parametrize(
    ("summary", "tokens", "numbers"),
    [(ONE_TOKEN, 1, 61), (SEVEN, 7, 9), (MANY, 100, 1)],
    ids=["one", "seven", "many"],
)
def test_a_token_with_fewer_numbers_may_drift_further(
    summary: Summary, tokens: int, numbers: int
) -> None:
    """The limit is the expected maximum of many normal estimates."""
    tolerance = Tolerance(1e-3, is_explicit=True)
    limit = 1e-3 * (1 + math.sqrt(2 * math.log(50 * tokens) / numbers))
    assert not tolerance.is_exceeded(Distance(worst=0.999 * limit), summary)
    assert tolerance.is_exceeded(Distance(worst=1.001 * limit), summary)


def test_pooled_drift_of_one_token_has_eight_times_the_numbers() -> None:
    tolerance = Tolerance(1e-3, is_explicit=True)
    limit = 1 + math.sqrt(2 * math.log(50 * 100) / 8)
    assert not tolerance.is_exceeded(Distance(pooled=limit * 1e-3 * 0.999), MANY)
    assert tolerance.is_exceeded(Distance(pooled=limit * 1e-3 * 1.001), MANY)


@pytest.mark.parametrize(
    ("summary", "limit", "pooled"), [(ONE_TOKEN, 1, 1), (SEVEN, 1, 1), (MANY, 3, 1)]
)
def test_the_default_of_float32_allows_less_for_one_token(
    summary: Summary, limit: float, pooled: float
) -> None:
    """It was measured on single tokens, with one number per token in long prompts."""
    tolerance = of_dtypes("float32", "float32")
    assert not tolerance.is_exceeded(Distance(worst=limit * 0.999e-5), summary)
    assert tolerance.is_exceeded(Distance(worst=limit * 1.001e-5), summary)
    assert not tolerance.is_exceeded(Distance(pooled=pooled * 0.999e-5), summary)
    assert tolerance.is_exceeded(Distance(pooled=pooled * 1.001e-5), summary)


def test_single_tokens_of_half_types_may_drift_three_times_as_far() -> None:
    limit = 3 * (1 + math.sqrt(2 * math.log(50 * 7) / 9)) * 6e-2
    tolerance = of_dtypes("bfloat16", "bfloat16")
    assert not tolerance.is_exceeded(Distance(worst=0.999 * limit), SEVEN)
    assert tolerance.is_exceeded(Distance(worst=1.001 * limit), SEVEN)


@pytest.mark.parametrize("tolerance", [Tolerance(0.99, is_explicit=True), Tolerance(1e-5)])
def test_a_new_nan_is_never_allowed(tolerance: Tolerance) -> None:
    assert tolerance.is_exceeded(INFINITE, SEVEN)
    assert not tolerance.is_exceeded(SAME, SEVEN)


def test_tolerance_zero_allows_only_equal_bits() -> None:
    assert compare(make_run(), make_run().within(0)).matches
    received = make_run(make_call(summary=make_summary(noise=1e-6)))
    assert not compare(make_run(), received.within(0)).matches


@pytest.mark.parametrize("tokens", [1, 7, 61, 256])
def test_noise_of_half_the_tolerance_passes_for_any_number_of_tokens(tokens: int) -> None:
    """The scatter of estimates fails no test whose true drift is far below the tolerance."""
    size = 64 * tokens
    x = [normal(1, tokens, 64, seed=seed) for seed in range(100)]
    y = [a + 5e-4 * normal(1, tokens, 64, seed=seed + 500) for seed, a in enumerate(x)]
    tolerance = Tolerance(1e-3, is_explicit=True)
    pairs = zip(summarize_all(x), summarize_all(y), strict=True)
    assert not any(tolerance.is_exceeded(distance(a, b), a) for a, b in pairs), size


@pytest.mark.parametrize("tokens", [7, 61, 256])
def test_one_token_that_drifts_by_ten_times_the_tolerance_fails(tokens: int) -> None:
    """Over all tokens the drift is small, but most tensors fail by that token."""
    x = [normal(1, tokens, 64, seed=seed) for seed in range(50)]
    y = [a.clone() for a in x]
    for seed, b in enumerate(y):
        b[0, seed % tokens] += 1e-2 * normal(64, seed=seed + 500)
    tolerance = Tolerance(1e-3, is_explicit=True)
    pairs = list(zip(summarize_all(x), summarize_all(y), strict=True))
    found = [tolerance.is_exceeded(distance(a, b), a) for a, b in pairs]
    assert np.mean(found) >= (0.98 if tokens == 7 else 0.5)


def half_run(noise: dict[str, float], **environment: object) -> Run:
    """Return a run in bfloat16 in which some values drift."""

    def drift(time: int, label: str) -> float:
        return noise.get(label, noise.get("", 0.0))

    half = {"dtype": "bfloat16", **environment}
    return make_run(*make_forward(drift), model={"weights": None}, environment=half)


def test_the_onset_of_a_drift_in_a_half_type_fails_though_it_is_small() -> None:
    """All inputs of the value are equal bit by bit, and bits should be equal."""
    start = "model.layers.0.mlp.gate_proj"
    comparison = compare(half_run({}), half_run({start: 1e-3}))
    assert comparison.tolerance.onset == 1e-4
    assert [drift.label for drift in comparison.failures] == [start]
    assert comparison.failures[0].allowed == 1e-4
    assert compare(half_run({}), half_run({start: 1e-3}, threads=8)).matches
    assert compare(half_run({}), half_run({start: 1e-3}).within(6e-2)).matches
    assert compare(half_run({}), half_run({start: 1e-6})).matches


def test_the_onset_of_a_drift_in_the_same_model_may_be_rounding() -> None:
    """If the weights are the same, only sums in another order are left, rounded in between."""
    start = "model.layers.0.mlp.gate_proj"

    def run(noise: float, weights: str | None = "same", **model: object) -> Run:
        made = half_run({start: noise} if noise else {})
        return replace(made, model=replace(made.model, weights=weights, **model))

    assert compare(run(0), run(3e-3)).matches
    assert not compare(run(0), run(9e-3)).matches
    for other in (run(3e-3, None), run(3e-3, "other"), run(3e-3, config={"eps": 2e-6})):
        found = compare(replace(run(0), model=replace(run(0).model, config={"eps": 1e-6})), other)
        assert not found.matches


def test_one_token_of_float32_fails_at_the_onset_of_a_drift() -> None:
    """An estimate from one number scatters, but at the onset there is no noise yet."""

    def run(noise: float, **environment: object) -> Run:
        drift = drift_from("lm_head", noise) if noise else no_drift
        return make_run(*make_forward(drift), environment=environment)

    assert not compare(run(0), run(7e-6)).matches
    assert compare(run(0), run(7e-6, threads=8)).matches
    assert compare(run(0), run(3e-6)).matches


def test_values_after_the_onset_in_a_half_type_are_judged_by_size() -> None:
    labels = ("gate_proj", "act_fn", "down_proj in.0", "down_proj")
    noise = {f"model.layers.0.mlp.{label}": 1e-3 for label in labels}
    noise |= {"model.layers.1.input_layernorm": 1e-3}
    comparison = compare(half_run({}), half_run(noise))
    assert [drift.label for drift in comparison.failures] == [
        "model.layers.0.mlp.gate_proj",
        "model.layers.1.input_layernorm",
    ]


@pytest.mark.parametrize(("tokens", "times"), [(1, 3.0), (2, 2.0), (8, 1.25), (200, 1.01)])
def test_with_few_tokens_of_a_half_type_each_may_drift_like_the_worst(
    tokens: int, times: float
) -> None:
    """The only token of a step may drift as far as the worst of many tokens."""
    summary = make_summary(shape=(1, tokens, 64))
    tolerance = tolerance_for(half_run({}), half_run({}), False)
    assert not tolerance.is_exceeded(Distance(rms=0.99 * times * 6e-2), summary)
    assert tolerance.is_exceeded(Distance(rms=1.01 * times * 6e-2), summary)
    for exact in (Tolerance(6e-2, is_explicit=True), Tolerance(1e-5)):
        assert exact.is_exceeded(Distance(rms=1.01 * exact.rel), summary)


def test_a_dict_of_tensors_has_no_onset() -> None:
    """Their inputs are unknown, so each tensor would seem to start a drift."""
    golden, received = (
        make_run(*make_forward(drift), kind=kind, environment={"dtype": "bfloat16"})
        for kind, drift in (("tensors", no_drift), ("tensors", drift_from("lm_head", 1e-3)))
    )
    assert tolerance_for(golden, received, True).onset is None
    assert compare(golden, received).matches


def test_onsets_of_dtypes() -> None:
    assert of_dtypes("float32", "float32").onset == 5e-6
    assert of_dtypes("float64", "float64").onset is None
    assert of_dtypes("float32", "float16").onset == 8e-4
    assert tolerance_for(make_run(), make_run(), bits_are_expected=False).onset is None


def test_onsets_apply_to_drifts_with_equal_inputs() -> None:
    values = timeline(make_forward())
    distances = {(v.position, v.leaf.at): Distance(rms=1e-3) for v in values}
    assert Tolerance(1e-5).onsets(values, distances) == {}
    assert Tolerance(1e-5, onset=1e-6).onsets(values, distances) == {}  # each fails anyway
    one_token = dict.fromkeys(distances, Distance(rms=1e-6, worst=8e-6))
    assert Tolerance(1e-5, onset=5e-6).onsets(values, one_token)
    assert not Tolerance(6e-2, onset=5e-6).onsets(values, one_token)
    found = Tolerance(1e-2, onset=1e-4).onsets(values, distances)
    assert [leaf_label(v.call, v.leaf) for v in values if (v.position, v.leaf.at) in found] == [
        "<model> in.input_ids"
    ]


def test_the_size_of_the_batch_counts_as_tokens() -> None:
    batch = summarize(normal(4, 25, 64))
    assert len(batch.norms) == len(MANY.norms)
    limit = 1e-3 * (1 + math.sqrt(2 * math.log(50 * 100) / 1))
    tolerance = Tolerance(1e-3, is_explicit=True)
    assert not tolerance.is_exceeded(Distance(worst=0.99 * limit), batch)
    assert tolerance.is_exceeded(Distance(worst=1.01 * limit), batch)


@pytest.mark.parametrize(
    ("golden", "received", "expected"),
    [
        ("float32", "float32", False),
        ("float64", "none", False),
        ("float32", "bfloat16", True),
        ("float16", "float32", True),
    ],
)
def test_has_half_type(golden: str, received: str, expected: bool) -> None:
    runs = (make_run(environment={"dtype": dtype}) for dtype in (golden, received))
    assert has_half_type(*runs) is expected
