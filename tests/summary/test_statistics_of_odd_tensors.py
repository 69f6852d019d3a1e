"""Tensors of other dtypes, layouts and sizes: each has a summary, and a change of it shows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from builders import distance, make_call, make_run, normal, summarize
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.run import Summary
from pytest_nnsight.summary.packing import read_norms, unpack

quick = settings(deadline=None, max_examples=50)


def apart(x: torch.Tensor, y: torch.Tensor) -> Distance:
    return distance(summarize(x), summarize(y))


def kept(summary: Summary) -> Summary:
    """Return a summary as its golden has it."""
    return decode(encode(make_run(make_call(summary=summary))), "golden").calls[0].leaves[0].summary


def test_nan_and_inf_are_counted_and_left_out_of_the_statistics() -> None:
    x = normal(1, 5, 64, dtype=torch.float64)
    x[0, 1, :3] = math.nan
    x[0, 2, 4] = math.inf
    x[0, 3, 5] = -math.inf
    summary = summarize(x)
    rest = x[x.isfinite()]
    assert (summary.nan, summary.inf) == (3, 2)
    assert (summary.minimum, summary.maximum) == (float(rest.min()), float(rest.max()))
    assert summary.mean == pytest.approx(float(rest.mean()), rel=1e-9)
    assert summary.std == pytest.approx(float(rest.std(correction=0)), rel=1e-9)
    assert summary.rms == pytest.approx(float(rest.square().mean().sqrt()), rel=1e-9)
    assert np.isfinite(unpack([(summary.norms, summary.sketch)])[1][0]).all()
    assert np.isfinite(read_norms(summary.norms)).all()


def test_tensor_without_finite_values_has_counts_alone() -> None:
    summary = summarize(torch.tensor([math.nan, math.inf, math.nan]))
    assert (summary.nan, summary.inf, summary.mean, summary.sketch) == (2, 1, None, b"")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_half_types_are_measured_in_float32(dtype: torch.dtype) -> None:
    x = (300 * normal(1, 9, 64)).to(dtype)
    half, full = summarize(x), summarize(x.float())
    assert half.dtype == str(dtype).removeprefix("torch.")
    assert (half.norms, half.sketch, half.std) == (full.norms, full.sketch, full.std)
    assert apart(x, x.clone()).is_same
    assert not apart(x, x.float()).is_same


def test_float64_is_measured_in_float64() -> None:
    summary = summarize(torch.full((2, 64), 1 + 1e-12, dtype=torch.float64))
    assert summary.dtype == "float64"
    assert summary.mean is not None
    assert summary.mean - 1 == pytest.approx(1e-12, rel=1e-3)


def test_complex_numbers_are_measured_as_pairs() -> None:
    x = torch.complex(normal(2, 5, 32), normal(2, 5, 32, seed=1))
    summary, pairs = summarize(x), summarize(torch.view_as_real(x).flatten(-2))
    assert (summary.shape, summary.dtype) == ((2, 5, 32), "complex64")
    assert (summary.norms, summary.sketch) == (pairs.norms, pairs.sketch)
    assert (summary.mean, summary.std) == (pairs.mean, pairs.std)


def test_phase_of_complex_numbers_is_seen() -> None:
    x = torch.complex(normal(2, 5, 32), normal(2, 5, 32, seed=1))
    assert apart(x, x * 1j).rms > 0.8
    assert apart(x, x.conj()).rms > 0.5


def test_integers_keep_their_bounds_and_mean_but_no_sketch() -> None:
    summary = summarize(torch.tensor([5, -3, 1]))
    assert (summary.minimum, summary.maximum, summary.mean) == (-3.0, 5.0, 1.0)
    assert summary.sketch == summary.norms == b""
    assert (summary.std, summary.rms) == (None, None)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 5), (2, 4, 0, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.complex64], ids=str)
def test_empty_tensor_has_shape_and_dtype_alone(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    empty = torch.empty(shape, dtype=dtype)
    summary = summarize(empty)
    assert (summary.shape, summary.mean, summary.norms, summary.digest) == (shape, None, b"", "")
    assert apart(empty, empty.clone()).is_same


def test_scalar_is_one_token_of_one_value() -> None:
    summary = summarize(torch.tensor(-3.0))
    assert (summary.shape, summary.minimum, summary.rms, summary.std) == ((), -3.0, 3.0, 0.0)
    assert read_norms(summary.norms).tolist() == [3.0]
    assert apart(torch.tensor(-3.0), torch.tensor(3.0)).rms == pytest.approx(2.0)


def test_zeros_have_a_summary_without_nan() -> None:
    zeros = summarize(torch.zeros(2, 3, 64))
    assert (zeros.mean, zeros.std, zeros.rms) == (0.0, 0.0, 0.0)
    assert not any(zeros.sketch)
    assert not any(zeros.norms)
    assert distance(zeros, summarize(torch.zeros(2, 3, 64))).is_same
    assert distance(zeros, summarize(normal(2, 3, 64))).rms > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(4,), (2, 3, 64), (1, 2, 3, 64)])
def test_huge_values_keep_finite_statistics(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    largest = 3e38 if dtype != torch.float64 else 1.7e308
    x = torch.full(shape, largest, dtype=dtype)
    x[..., ::2] *= -1
    summary = kept(summarize(x))
    for name in ("minimum", "maximum", "mean"):
        assert math.isfinite(getattr(summary, name))
    assert summary.maximum == pytest.approx(largest, rel=0.01)
    assert (summary.nan, summary.inf) == (0, 0)


@pytest.mark.parametrize("scale", [1e19, 3e37, 3e38])
@pytest.mark.parametrize("tokens", [1, 9, 100])
def test_a_change_of_huge_values_is_seen(tokens: int, scale: float) -> None:
    """Their squares, and sums of a few, exceed float32; then there is no norm and no sketch."""
    x = torch.full((1, tokens, 64), scale)
    x[..., ::3] *= -1
    turned = x.clone()
    turned[0, -1] *= -1
    assert apart(x, turned).worst > 1.0
    assert apart(x, -x).rms in (pytest.approx(2.0, rel=0.5), math.inf)


@pytest.mark.parametrize("hidden", [torch.finfo(torch.float32).min, -math.inf], ids=["min", "inf"])
def test_a_mask_that_hides_other_places_drifts(hidden: float) -> None:
    """A float mask is zero or the lowest number; exchanged values change no statistic."""
    causal = torch.triu(torch.full((9, 9), hidden), 1)[None, None]
    moved = causal.roll(1, -1)
    assert not apart(causal, moved).is_same
    assert apart(causal, moved).worst > 0.1


def test_nan_that_moves_among_zeros_drifts() -> None:
    x = torch.zeros(1, 7, 64)
    x[0, 2, 3] = math.nan
    assert apart(x, x.roll(5, -1)).worst > 0.1
    assert apart(x, x.roll(1, 1)).worst > 0.1


def test_inf_of_the_other_sign_drifts() -> None:
    x = normal(1, 7, 64)
    x[0, 2, 3] = math.inf
    y = x.clone()
    y[0, 2, 3] = -math.inf
    assert apart(x, y).worst > 0.1


@pytest.mark.parametrize(
    "values",
    [
        [torch.finfo(torch.float64).min, 0.0, torch.finfo(torch.float64).min],
        [1e40, math.nan],
        [1e40, -math.inf, 2.0],
        [1e-40, 1.0, 1e300],
    ],
    ids=["mask", "nan", "inf", "both"],
)
def test_float64_beyond_float32_can_be_kept_in_a_golden(values: list[float]) -> None:
    """As masks of a model in float64 are, which are as low as can be."""
    x = torch.tensor(values, dtype=torch.float64)
    summary = summarize(x)
    assert distance(kept(summary), summary).is_same
    assert not distance(kept(summary), summarize(x.roll(1))).is_same
    assert (summary.nan, summary.inf) == (int(x.isnan().sum()), int(x.isinf().sum()))


def test_huge_sum_that_overflows_float32_keeps_its_mean() -> None:
    assert summarize(torch.full((2, 64), 1e37)).mean == pytest.approx(1e37, rel=1e-6)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (1e-30, torch.float32),
        (1e-38, torch.float32),
        (1e30, torch.float32),
        (1e300, torch.float64),
        (1e-300, torch.float64),
    ],
)
def test_very_small_and_very_large_numbers_differ(scale: float, dtype: torch.dtype) -> None:
    x = scale * normal(2, 70, dtype=dtype)
    assert apart(x, x.clone()).is_same
    assert apart(x, x * 1.001).rms > 5e-4
    assert apart(x, -x).rms > 0.5


def test_meta_tensor_has_shape_and_dtype_alone() -> None:
    summary = summarize(torch.empty(2, 3, device="meta"))
    assert (summary.shape, summary.dtype, summary.mean) == ((2, 3), "float32", None)


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        (torch.eye(4).to_sparse(), torch.eye(4)),
        (torch.complex(normal(5), normal(5, seed=1)).conj(), None),
        (torch.complex(normal(5), normal(5, seed=1)).conj().imag, None),
        (torch.complex(normal(40_000), normal(40_000, seed=1)).conj().imag, None),
    ],
    ids=["sparse", "conjugated", "negated", "negated-large"],
)
def test_odd_layouts_are_measured_by_their_values(
    odd: torch.Tensor, plain: torch.Tensor | None
) -> None:
    expected = odd.resolve_conj().resolve_neg().clone() if plain is None else plain
    assert summarize(odd) == summarize(expected)


@quick
@given(
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(1, 5),
    st.integers(1, 130),
    st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int32, torch.bool]),
)
def test_any_view_is_measured_as_its_copy(
    before: int, after: int, tokens: int, width: int, dtype: torch.dtype
) -> None:
    """It is a part of a larger tensor, at any offset and of any width."""
    whole = (10 * normal(1, tokens, before + width + after)).to(dtype)
    view = whole[:, :, before : before + width]
    assert summarize(view) == summarize(view.clone(memory_format=torch.contiguous_format))


@pytest.mark.parametrize("change", [torch.logical_not, lambda x: x.roll(1)], ids=["not", "rolled"])
def test_booleans_that_change_are_apart(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    mask = torch.tensor([True, True, False, True])
    assert apart(mask, change(mask)).rms == math.inf


@pytest.mark.parametrize("shape", [(1, 4, 8), (1, 256, 1024), (3, 256, 4096)])
def test_a_tensor_that_is_negated_when_it_is_read(shape: tuple[int, ...]) -> None:
    """As the imaginary part of a conjugate is; its bits are those of the opposite."""
    x = normal(*shape)
    lazy = torch._neg_view(-x)
    assert lazy.is_neg()
    assert summarize(lazy) == summarize(x)
