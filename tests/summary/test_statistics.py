"""Statistics, norms and projections of a tensor, on a CPU and on other devices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from builders import normal, summarize, summarize_all
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.run import token_count
from pytest_nnsight.summary.packing import read_norms
from pytest_nnsight.summary.statistics import measure, measure_carefully, tokens_of

quick = settings(deadline=None, max_examples=50)
BFLOAT16 = 2**-8  # the largest relative error of a number that is rounded to 8 bits


@pytest.mark.parametrize(
    ("shape", "tokens"),
    [
        ((), (1, 1)),
        ((5,), (1, 5)),
        ((3, 5), (3, 5)),
        ((2, 3, 5), (6, 5)),
        ((2, 4, 3, 5), (6, 20)),
        ((2, 4, 7, 3, 5), (6, 140)),
    ],
)
def test_tokens_are_axes_zero_and_minus_two(
    shape: tuple[int, ...], tokens: tuple[int, int]
) -> None:
    assert tokens_of(torch.zeros(shape)).shape == tokens
    assert token_count(shape) == tokens[0]


def test_heads_of_one_token_stand_together() -> None:
    heads = normal(2, 4, 3, 5)
    tokens = tokens_of(heads)
    assert torch.equal(tokens[3 * 1 + 2], heads[1, :, 2].reshape(-1))


@quick
@given(
    st.lists(st.integers(1, 9), max_size=4),
    st.sampled_from([torch.float32, torch.float64]),
    st.floats(-2, 2),
    st.sampled_from([1e-10, 1e-3, 1.0, 1e4, 1e15]),
    st.integers(0, 2**20),
)
def test_statistics_agree_with_torch(
    shape: list[int], dtype: torch.dtype, offset: float, scale: float, seed: int
) -> None:
    x = (scale * (normal(*shape, 7, seed=seed, dtype=torch.float64) + offset)).to(dtype)
    summary, exact = summarize(x), x.double()
    rms = float(exact.square().mean().sqrt())
    assert summary.minimum == float(exact.min())
    assert summary.maximum == float(exact.max())
    assert summary.mean == pytest.approx(float(exact.mean()), abs=1e-5 * rms)
    assert summary.rms == pytest.approx(rms, rel=1e-5)
    assert summary.std == pytest.approx(float(exact.std(correction=0)), rel=1e-5)
    norms = tokens_of(exact).norm(dim=1).numpy()
    np.testing.assert_allclose(read_norms(summary.norms), norms, rtol=BFLOAT16)


def test_autocast_does_not_change_what_is_measured() -> None:
    """A test may run its model under it; the projection is a matrix product, too."""
    for tensor in (normal(1, 7, 64), normal(1, 300, 576), normal(1, 300, 5000)):
        with torch.autocast("cpu", torch.bfloat16):
            inside = summarize(tensor)
        assert inside == summarize(tensor)


def test_std_far_below_the_mean_is_kept() -> None:
    x = 1000 + 1e-3 * normal(3, 50, seed=1)
    assert summarize(x).std == pytest.approx(float(x.double().std(correction=0)), rel=1e-3)


def test_one_tensor_that_needs_care_is_measured_with_care_inside_a_stack() -> None:
    odd = 1000 + 1e-3 * normal(3, 50, seed=1)
    summary = summarize_all([normal(3, 50), odd, normal(3, 50, seed=2)])[1]
    assert summary.std == pytest.approx(float(odd.double().std(correction=0)), rel=1e-3)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(
    "shape", [(256, 576), (100, 577), (200, 3001), (61, 1074), (1100, 61), (90, 1031)]
)
def test_numpy_measures_as_torch_does(shape: tuple[int, int], offset: int) -> None:
    """The checksum must be the same to the last bit, on every device."""
    flat = normal(offset + shape[0] * shape[1])
    alone = flat[offset:].reshape(1, *shape)
    by_numpy, by_torch = measure([alone])[0], measure_carefully(alone)[0]
    assert torch.equal(by_numpy[7:9], by_torch[7:9])
    by_torch[5] = math.nan  # the variance, which follows from the sums here
    torch.testing.assert_close(by_numpy, by_torch, rtol=1e-6, atol=1e-4, equal_nan=True)
    together = measure([alone, torch.cat([alone, alone])])
    assert torch.equal(together.nan_to_num(), by_numpy.nan_to_num().expand(3, -1))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, 1e-30, 7.0])
def test_a_large_tensor_that_needs_care_has_it(value: float) -> None:
    alone = torch.full((100, 700), value) if value in (1e30, 1e-30, 7.0) else normal(100, 700)
    alone[3, 4] = value
    numbers = measure([alone[None], normal(1, 100, 700, seed=1)])
    torch.testing.assert_close(numbers[0], measure_carefully(alone[None])[0], equal_nan=True)
    together = measure([torch.stack([alone, normal(100, 700, seed=1)])])
    torch.testing.assert_close(numbers, together, equal_nan=True)
    assert numbers[:, 5].isfinite().tolist() == [True, False]  # the variance, left out otherwise
