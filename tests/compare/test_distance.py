"""The distance of two tensors, from their summaries."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from builders import distance, make_summary, normal, summarize
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.compare.distance import (
    INFINITE,
    SAME,
    Distance,
    distances,
    most_changed_statistic,
    true_distance,
)
from pytest_nnsight.run import numbers_per_token
from pytest_nnsight.summary.statistics import tokens_of

quick = settings(deadline=None, max_examples=60)


def apart(x: torch.Tensor, y: torch.Tensor) -> Distance:
    return distance(summarize(x), summarize(y))


@quick
@given(
    st.integers(1, 70),
    st.integers(1, 100),
    st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 100.0]),
    st.sampled_from([0.0, 1e-20, 1.0, 1e20]),
    st.integers(0, 2**20),
)
def test_distance_is_symmetric(
    tokens: int, width: int, noise: float, scale: float, seed: int
) -> None:
    x = normal(1, tokens, width, seed=seed)
    y = x * scale if noise == 0 else x + noise * normal(1, tokens, width, seed=seed + 1)
    forward, backward = apart(x, y), apart(y, x)
    assert forward == backward
    assert 0 <= forward.rms <= forward.worst * tokens**0.5 + 1e-12
    numbers = tokens * numbers_per_token(tokens)
    assert forward.error == 0 or forward.error > 0.999 * (2 * numbers) ** -0.5
    np.testing.assert_array_equal(forward.per_token, backward.per_token)


@quick
@given(
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32]),
    st.integers(1, 9),
    st.integers(1, 100),
    st.sampled_from([0.0, 1e-12, 1e-7, 1e-3]),
    st.integers(0, 2**20),
)
def test_distance_is_zero_where_bits_are_equal(
    dtype: torch.dtype, tokens: int, width: int, noise: float, seed: int
) -> None:
    x = (100 * normal(1, tokens, width, seed=seed, dtype=torch.float64)).to(dtype)
    changed = x.double() + noise * normal(1, tokens, width, seed=seed + 1, dtype=torch.float64)
    y = changed.to(dtype)
    found = apart(x, y)
    assert found.is_same == torch.equal(x, y)
    if found.is_same:
        assert found == SAME


def test_equal_values_of_another_dtype_are_near_but_not_the_same() -> None:
    x = normal(1, 7, 64).bfloat16()
    found = apart(x, x.float())
    assert (found.is_same, found.rms) == (False, 0.0)


def test_distance_is_relative_to_the_larger_norm() -> None:
    x = torch.zeros(1, 8, 64)
    x[..., 3] = 1.0
    found = apart(x, 4 * x)
    assert found.rms == pytest.approx(0.75, rel=1e-6)
    assert found.worst == pytest.approx(0.75, rel=1e-6)


def test_each_token_has_its_own_estimate() -> None:
    x = torch.zeros(1, 8, 64)
    x[..., 3] = 1.0
    y = x.clone()
    y[0, 2, 3] = 0.9
    y[0, 6, 3] = 0.7
    found = apart(x, y)
    expected = [0, 0, 0.1, 0, 0, 0, 0.3, 0]
    np.testing.assert_allclose(found.per_token, expected, atol=1e-6)
    assert (found.token, found.worst) == (6, pytest.approx(0.3, abs=1e-6))
    assert found.rms == pytest.approx(math.sqrt(0.1 / 8), abs=1e-6)
    assert found.is_same is False


def test_token_of_a_single_vector_has_no_index() -> None:
    assert apart(normal(64), normal(64, seed=1)).token is None
    assert apart(normal(1, 2, 64), normal(1, 2, 64, seed=1)).token in (0, 1)


def test_a_token_that_is_zero_in_one_run_has_distance_one() -> None:
    x = normal(1, 5, 64)
    y = x.clone()
    y[0, 3] = 0
    found = apart(x, y)
    assert (found.token, found.worst) == (3, pytest.approx(1.0, rel=0.4))


def test_error_follows_from_the_number_of_samples() -> None:
    """There are 61 samples for one token or seven, but 9 if only one of seven tokens drifts."""
    assert apart(normal(1, 64), normal(1, 64, seed=1)).error == pytest.approx(
        (2 * 61) ** -0.5, rel=0.05
    )
    x = normal(1, 7, 64)
    assert apart(x, x + 1e-3 * normal(1, 7, 64, seed=1)).error == pytest.approx(0.09, rel=0.4)
    y = x.clone()
    y[0, 4] += 1.0
    assert apart(x, y).error == pytest.approx((2 * 9) ** -0.5, rel=0.2)
    assert apart(x, x.clone()).error == 0.0


def test_integers_are_equal_or_at_infinite_distance() -> None:
    x = torch.tensor([1, 2, 3])
    assert apart(x, torch.tensor([1, 3, 2])) == INFINITE
    assert apart(x, x.clone()) == SAME


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_new_nan_or_inf_is_infinite_drift(value: float) -> None:
    x = normal(1, 7, 64)
    y = x.clone()
    y[0, 3, 5] = value
    assert apart(x, y) == apart(y, x) == INFINITE


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_new_nan_counts_only_in_a_real_token(value: float) -> None:
    x, real = normal(1, 7, 64), np.arange(7) >= 2
    for token, is_padding in ((1, True), (3, False)):
        y = x.clone()
        y[0, token, 5] = value
        found = distances([(summarize(x), summarize(y))], [real])[0]
        assert (found.worst < 1e-6) == (found.padded > 0.1) == is_padding
        assert is_padding or found.worst == math.inf


def test_padding_does_not_change_the_distance_of_the_real_tokens() -> None:
    x, real = normal(1, 9, 64), np.arange(9) % 3 == 0
    y = x + 1e-3 * normal(1, 9, 64, seed=1)
    z = y.clone()
    z[0, ~torch.from_numpy(real)] = 1e4 * normal(6, 64, seed=2)
    near, far = distances([(summarize(x), summarize(y)), (summarize(x), summarize(z))], [real] * 2)
    assert near.rms == pytest.approx(far.rms, rel=1e-3) == pytest.approx(1e-3, rel=0.4)
    assert near.token == far.token in np.flatnonzero(real)
    assert near.padded < 3e-3 < 0.9 < far.padded
    assert far.per_token is not None
    assert not far.per_token[~real].any()
    assert near.error == pytest.approx(far.error, rel=0.01)


def test_nothing_is_compared_where_all_tokens_are_padding() -> None:
    pair = summarize(normal(1, 3, 8)), summarize(normal(1, 3, 8, seed=1))
    assert distances([pair], [np.zeros(3, bool)]) == [SAME]


def test_the_same_nan_on_both_sides_matches() -> None:
    x = normal(1, 7, 64)
    x[0, 3, 5] = math.nan
    assert apart(x, x.clone()) == SAME


def test_drift_next_to_a_nan_is_estimated() -> None:
    x = normal(1, 7, 64)
    x[0, 3, 5] = math.nan
    y = x + 1e-3 * normal(1, 7, 64, seed=1)
    assert apart(x, y).rms == pytest.approx(1e-3, rel=0.4)


def test_a_nan_in_another_token_is_found() -> None:
    x, y = normal(1, 7, 64), normal(1, 7, 64)
    x[0, 3] = math.nan
    y[0, 4] = math.nan
    assert apart(x, y).worst >= 0.5


def test_tensors_without_a_finite_value_differ_at_most_in_bits() -> None:
    x, y = torch.full((3,), math.nan), torch.full((3,), -math.nan)
    assert apart(x, x.clone()) == SAME
    y.view(torch.int32)[0] ^= 1
    assert apart(x, y) == Distance(is_same=False)


def test_a_tensor_without_finite_values_any_more_is_infinite_drift() -> None:
    golden = make_summary()
    assert distance(golden, golden._replace(norms=b"", sketch=b"", digest="")) == INFINITE


@quick
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.sampled_from([0.0, 1e-7, 1e-3, 1.0]),
    st.integers(0, 2**20),
)
def test_true_distance_follows_its_definition(shape: list[int], noise: float, seed: int) -> None:
    x = normal(*shape, 8, seed=seed, dtype=torch.float64)
    y = x + noise * normal(*shape, 8, seed=seed + 1, dtype=torch.float64)
    small = 10.0 ** -(np.arange(len(tokens_of(x))) % 4)[:, None]  # some tokens are near zero
    a, b = tokens_of(x).numpy() * small, tokens_of(y).numpy() * small
    found = true_distance(a, b)
    assert found == true_distance(b, a)
    norms = np.maximum(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    scale = np.maximum(norms, 0.1 * np.median(norms))
    each = np.linalg.norm(a - b, axis=1) / scale
    assert found.worst == pytest.approx(each.max(), rel=1e-9)
    expected = math.sqrt((each**2).sum() / ((norms / scale) ** 2).sum())
    assert found.rms == pytest.approx(expected, rel=1e-9)
    assert (found.error, found.is_same) == (0.0, noise == 0.0)


def test_true_distance_treats_nan_like_the_estimate() -> None:
    x, y = normal(7, 64).numpy(), normal(7, 64).numpy()
    y[3, 5] = math.nan
    assert true_distance(x, y) == INFINITE
    x[3, 5] = math.nan
    assert true_distance(x, y) == SAME
    y[4] += 1
    assert true_distance(x, y).token == 4


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda x: x + 0.5, "mean"),
        (lambda x: torch.where(x == x.max(), x + 30, x), "max"),
        (lambda x: torch.where(x == x.min(), x - 30, x), "min"),
        (lambda x: torch.where(x.abs() < 1, x * 0.2, x), "std"),
    ],
)
def test_the_statistic_that_changed_most_is_shown(
    change: Callable[[torch.Tensor], torch.Tensor], name: str
) -> None:
    x = normal(1, 7, 64)
    before, now = most_changed_statistic(summarize(x), summarize(change(x)))
    assert before.startswith(f"{name} ")
    assert before.removeprefix(f"{name} ") != now


def test_statistics_are_shown_with_enough_digits_to_differ() -> None:
    golden = make_summary()._replace(maximum=3.0)
    assert most_changed_statistic(golden, golden._replace(maximum=3.00002)) == ("max 3", "3.00002")
    assert most_changed_statistic(golden, golden._replace(maximum=3.2)) == ("max 3", "3.2")


def test_counts_of_nan_and_inf_are_shown_before_any_statistic() -> None:
    x = normal(1, 7, 64)
    y = x.clone()
    y[0, 1, :2], y[0, 2, 3] = math.nan, math.inf
    shown = most_changed_statistic(summarize(x), summarize(y))
    assert shown == ("0 NaN, 0 Inf", "2 NaN, 1 Inf")


def test_tensors_without_statistics_are_shown_by_their_digest() -> None:
    nothing = summarize(torch.full((3,), math.nan))
    assert most_changed_statistic(nothing, nothing._replace(digest="ab")) == (nothing.digest, "ab")
    empty = summarize(torch.empty(0))
    assert most_changed_statistic(empty, empty) == ("no values", "no values")


def test_many_distances_equal_those_computed_one_by_one() -> None:
    """Tensors of several sizes are grouped by size, and equal pairs are computed once."""
    shapes = [(1, 7, 64), (1, 1, 64), (1, 300, 8), (1, 7, 64)] * 2
    pairs = [
        (make_summary(shape=shape, seed=seed), make_summary(10.0**-seed, shape, seed))
        for seed, shape in enumerate(shapes)
    ] * 2
    pairs.append((make_summary(), make_summary(shape=(1, 7, 64), seed=3)))
    found = distances(pairs)
    assert found == [distance(*pair) for pair in pairs]
    assert found[0] is found[8]
    assert len({apart.rms for apart in found}) == 9
