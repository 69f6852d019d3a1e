"""Tensor -> summary: the projection, its accuracy, and the statistics beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from builders import normal, summarize
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.distance import relative_drift
from pytest_nnsight.projection import BUCKETS, project
from pytest_nnsight.sketch import collect, measure, token_weights, tokens_of

FIRST_SIGNS = (-1, 1, 1, -1, -1, 1, 1, 1, 1, 1, 1, -1, -1, 1, 1, 1)
WIDTHS = (1, 3, 60, 61, 62, 64, 122, 200)
SEEDS = range(4)
quick = settings(deadline=None, max_examples=50)


def naive_projection(values: torch.Tensor, weights: torch.Tensor) -> np.ndarray:
    """Add element ``i`` to bucket ``i mod 61`` with sign ``i div 61``, one after another.

    Tokens whose width is a multiple of 61 get a zero behind them, so that channels change buckets.
    """
    if values.shape[1] % BUCKETS == 0:
        values = torch.nn.functional.pad(values, (0, 1))
    flat = (values.double() * weights.double()[:, None]).reshape(-1).tolist()
    words = np.random.Philox(key=int.from_bytes(b"nnsight", "big")).random_raw(len(flat) // 64 + 1)
    sketch = np.zeros(BUCKETS)
    for index, value in enumerate(flat):
        row = index // BUCKETS
        bit = int(words[row // 64]) >> (row % 64) & 1
        sketch[index % BUCKETS] += value if bit else -value
    return sketch


def test_first_signs_are_the_same_in_every_version_of_numpy() -> None:
    values = torch.zeros(1, 16 * BUCKETS)
    values[0, torch.arange(16) * (BUCKETS + 1)] = 1.0
    assert tuple(project(values, torch.ones(1))[:16].tolist()) == FIRST_SIGNS


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("tokens", [1, 2, 3, 17])
def test_projection_equals_its_definition(tokens: int, width: int) -> None:
    values = normal(tokens, width, seed=width, dtype=torch.float64)
    weights = normal(tokens, seed=tokens, dtype=torch.float64).abs() + 0.1
    expected = naive_projection(values, weights)
    np.testing.assert_allclose(project(values, weights).numpy(), expected, atol=1e-12)


@quick
@given(st.integers(1, 9), st.integers(1, 200), st.integers(0, 2**20))
def test_projection_of_any_shape_equals_its_definition(tokens: int, width: int, seed: int) -> None:
    values = normal(tokens, width, seed=seed, dtype=torch.float64)
    weights = normal(tokens, seed=seed + 1, dtype=torch.float64)
    expected = naive_projection(values, weights)
    np.testing.assert_allclose(project(values, weights).numpy(), expected, atol=1e-12)


@quick
@given(
    st.integers(1, 9),
    st.integers(1, 200),
    st.floats(-100, 100),
    st.floats(-100, 100),
    st.integers(0, 2**20),
)
def test_projection_is_linear(tokens: int, width: int, a: float, b: float, seed: int) -> None:
    x = normal(tokens, width, seed=seed, dtype=torch.float64)
    y = normal(tokens, width, seed=seed + 1, dtype=torch.float64)
    weights = normal(tokens, seed=seed + 2, dtype=torch.float64)
    together = project(a * x + b * y, weights)
    apart = a * project(x, weights) + b * project(y, weights)
    torch.testing.assert_close(together, apart, rtol=1e-9, atol=1e-9)


def test_projection_leaves_its_inputs_alone() -> None:
    values, weights = normal(3, 10), torch.ones(3)
    before = values.clone()
    project(values, weights)
    assert torch.equal(values, before)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), (1, 1)),
        ((5,), (1, 5)),
        ((3, 5), (3, 5)),
        ((2, 3, 5), (6, 5)),
        ((2, 4, 3, 5), (6, 20)),
    ],
)
def test_tokens_are_batch_and_position(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    assert tuple(tokens_of(torch.zeros(shape)).shape) == expected


def test_token_of_attention_holds_all_its_heads() -> None:
    heads = normal(2, 4, 3, 5)
    assert torch.equal(tokens_of(heads)[1], heads[0, :, 1].reshape(-1))
    assert torch.equal(tokens_of(heads)[3], heads[1, :, 0].reshape(-1))


def test_token_weights_are_floored_by_the_median_token() -> None:
    weights = token_weights(torch.tensor([10.0, 10.0, 10.0, 0.01, 1000.0]))
    torch.testing.assert_close(weights, torch.tensor([0.1, 0.1, 0.1, 1.0, 0.001]))


def random_noise(x: torch.Tensor, seed: int) -> torch.Tensor:
    return x + 1e-3 * normal(*x.shape, seed=seed + 77)


def one_channel(x: torch.Tensor, seed: int) -> torch.Tensor:
    y = x.clone()
    y[..., 5 + seed] += 0.3
    return y


def one_token(x: torch.Tensor, seed: int) -> torch.Tensor:
    y = x.clone()
    y[0, 7 + seed] += 0.1 * normal(x.shape[-1], seed=seed + 78)
    return y


def swapped_tokens(x: torch.Tensor, seed: int) -> torch.Tensor:
    y = x.clone()
    y[:, [3, 9 + seed]] = x[:, [9 + seed, 3]]
    return y


def swapped_channels(x: torch.Tensor, seed: int) -> torch.Tensor:
    y = x.clone()
    y[..., [2, 40 + seed]] = x[..., [40 + seed, 2]]
    return y


def true_drift(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return what `relative_drift` estimates, from the tensors themselves."""
    a, b = tokens_of(x).double(), tokens_of(y).double()
    old, new = a.norm(dim=1), b.norm(dim=1)
    distance = (a / old[:, None] - b / new[:, None]).norm(dim=1).square().mean().sqrt()
    change = ((old - new).abs() / torch.maximum(old, new)).max()
    return float(torch.maximum(distance, change))


@pytest.mark.parametrize("width", [64, 122, 576])
@pytest.mark.parametrize(
    "change", [random_noise, one_channel, one_token, swapped_tokens, swapped_channels]
)
def test_two_sketches_estimate_the_relative_distance(
    change: Callable[[torch.Tensor, int], torch.Tensor], width: int
) -> None:
    for seed in SEEDS:
        x = normal(1, 41, width, seed=seed)
        y = change(x, seed)
        estimate, _ = relative_drift(summarize(x), summarize(y))
        assert 0.6 < estimate / true_drift(x, y) < 1.6


def test_estimate_is_unbiased_over_many_changes() -> None:
    """The squared distance has no bias, so its mean over 64 draws is within a few percent."""
    ratios = []
    for seed in range(64):
        x = normal(1, 17, 64, seed=seed)
        y = random_noise(x, seed)
        estimate, _ = relative_drift(summarize(x), summarize(y))
        ratios.append((estimate / true_drift(x, y)) ** 2)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.08)


def test_one_massive_token_does_not_hide_the_others() -> None:
    for seed in SEEDS:
        x = normal(1, 16, 576, seed=seed)
        x[0, 0] *= 300
        y = x.clone()
        y[0, 1:] += 1e-3 * normal(15, 576, seed=seed + 1)
        estimate, _ = relative_drift(summarize(x), summarize(y))
        assert 0.6e-3 < estimate < 1.6e-3


def test_change_of_the_massive_token_is_seen_too() -> None:
    x = normal(1, 16, 576)
    x[0, 0] *= 300
    y = x.clone()
    y[0, 0] *= 1.01
    estimate, token = relative_drift(summarize(x), summarize(y))
    assert (estimate, token) == (pytest.approx(0.0099, rel=1e-2), 0)


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
    assert np.isfinite(np.frombuffer(summary.sketch, "<f4")).all()
    assert np.isfinite(np.frombuffer(summary.norms, "<f4")).all()


def test_tensor_without_finite_values_has_counts_alone() -> None:
    summary = summarize(torch.tensor([math.nan, math.inf, math.nan]))
    assert (summary.nan, summary.inf, summary.mean, summary.sketch) == (2, 1, None, b"")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_half_types_are_measured_in_float32(dtype: torch.dtype) -> None:
    x = (300 * normal(1, 9, 64)).to(dtype)
    half, full = summarize(x), summarize(x.float())
    assert half.dtype == str(dtype).removeprefix("torch.")
    assert (half.norms, half.sketch, half.std) == (full.norms, full.sketch, full.std)


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
    estimate, _ = relative_drift(summarize(x), summarize(x * 1j))
    assert estimate > 0.8


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_swapped_integers_and_booleans_have_another_digest(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 0, 1], [0, 1, 1]]).to(dtype)
    y = x[:, [1, 0, 2]]
    assert len(summarize(x).digest) == 16
    assert summarize(x) == summarize(x.clone())
    assert summarize(x).digest != summarize(y).digest
    assert summarize(x).sketch == summarize(x).norms == b""


def test_integers_keep_their_bounds_and_mean() -> None:
    summary = summarize(torch.tensor([5, -3, 1]))
    assert (summary.minimum, summary.maximum, summary.mean) == (-3.0, 5.0, 1.0)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 5), (2, 4, 0, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.complex64])
def test_empty_tensor_has_shape_and_dtype_alone(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    summary = summarize(torch.empty(shape, dtype=dtype))
    assert (summary.shape, summary.mean, summary.norms, summary.digest) == (shape, None, b"", "")


def test_scalar_is_one_token_of_one_value() -> None:
    summary = summarize(torch.tensor(-3.0))
    assert (summary.shape, summary.minimum, summary.rms, summary.std) == ((), -3.0, 3.0, 0.0)
    assert np.frombuffer(summary.norms, "<f4").tolist() == [3.0]
    assert relative_drift(summary, summarize(torch.tensor(3.0)))[0] == pytest.approx(2.0)


def test_zeros_have_a_summary_without_nan() -> None:
    zeros = summarize(torch.zeros(2, 3, 64))
    assert (zeros.mean, zeros.std, zeros.rms) == (0.0, 0.0, 0.0)
    assert not any(zeros.sketch)
    assert relative_drift(zeros, summarize(torch.zeros(2, 3, 64))) == (0.0, None)
    assert relative_drift(zeros, summarize(normal(2, 3, 64)))[0] >= 1.0


@pytest.mark.parametrize("shape", [(4,), (2, 3, 64), (1, 2, 3, 64)])
def test_huge_values_give_no_nan(shape: tuple[int, ...]) -> None:
    x = torch.full(shape, 3e38)
    x[..., ::2] *= -1
    summary = summarize(x)
    for value in (summary.minimum, summary.maximum, summary.mean, summary.std, summary.rms):
        assert value is not None
        assert math.isfinite(value)
    assert summary.rms == pytest.approx(3e38, rel=1e-6)
    assert (summary.nan, summary.inf) == (0, 0)
    assert np.isfinite(np.frombuffer(summary.sketch, "<f4")).all()


def test_huge_sum_that_overflows_float32_keeps_its_mean() -> None:
    assert summarize(torch.full((2, 64), 1e37)).mean == pytest.approx(1e37, rel=1e-6)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(1, 2),
        lambda x: x[:, ::2],
        lambda x: x[..., ::3],
        lambda x: x[:, :1].expand(-1, 7, -1),
        lambda x: x.unsqueeze(1).transpose(2, 3),
    ],
    ids=["transposed", "every-other-token", "every-third-channel", "expanded", "heads"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_non_contiguous_equals_contiguous(
    view: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> None:
    x = view((100 * normal(2, 10, 66)).to(dtype))
    assert not x.is_contiguous()
    assert summarize(x) == summarize(x.contiguous())


def test_same_input_gives_the_same_bytes() -> None:
    x = normal(2, 41, 200)
    assert summarize(x) == summarize(x.clone()) == summarize(x.requires_grad_())


def test_summary_does_not_depend_on_what_is_collected_with_it() -> None:
    tensors = [normal(1, 5, 64), torch.arange(4), torch.empty(0), normal(3, dtype=torch.float64)]
    assert collect([measure(x) for x in tensors]) == [summarize(x) for x in tensors]


def test_collect_of_nothing_is_nothing() -> None:
    assert collect([]) == []


def test_meta_tensor_has_shape_and_dtype_alone() -> None:
    summary = summarize(torch.empty(2, 3, device="meta"))
    assert (summary.shape, summary.dtype, summary.mean) == ((2, 3), "float32", None)


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
    norms = np.frombuffer(summary.norms, "<f4")
    np.testing.assert_allclose(norms, tokens_of(exact).norm(dim=1).numpy(), rtol=1e-5)


def test_drift_grows_with_the_change() -> None:
    x = normal(1, 41, 64)
    sizes = [
        relative_drift(summarize(x), summarize(x + noise * normal(1, 41, 64, seed=1)))[0]
        for noise in (0.0, 1e-5, 1e-4, 1e-3, 1e-2)
    ]
    assert all(small < large for small, large in pairwise(sizes))


def test_odd_tensors_are_summarised() -> None:
    conjugated = torch.tensor([1 + 2j, 3 - 1j]).conj()
    assert summarize(conjugated) == summarize(conjugated.resolve_conj())
    assert summarize(torch.tensor(1 + 2j)).rms == pytest.approx(2.5**0.5)
    assert summarize(torch.tensor(3)).digest != summarize(torch.tensor(4)).digest
    dense = torch.eye(4)
    assert summarize(dense.to_sparse()) == summarize(dense)


def test_very_small_and_very_large_numbers_are_told_apart() -> None:
    for scale, dtype in ((1e-30, torch.float32), (1e30, torch.float32), (1e300, torch.float64)):
        x = torch.full((2, 70), scale, dtype=dtype)
        assert relative_drift(summarize(x), summarize(x * 1.001))[0] > 5e-4
        assert relative_drift(summarize(x), summarize(-x))[0] > 0.5


def test_std_far_below_the_mean_is_kept() -> None:
    x = 1000 + 1e-3 * normal(3, 50, seed=1)
    assert summarize(x).std == pytest.approx(float(x.double().std(correction=0)), rel=1e-3)


def test_tensors_measured_together_are_measured_as_each_alone() -> None:
    """Also where one among them needs care, or is of another shape."""
    tensors = [1000**i * normal(1, 5, 70, seed=i) for i in range(6)]
    tensors[2][0, 1, 3] = float("nan")
    tensors[3:3] = [normal(9, seed=1), normal(3, 2, 8, 70, seed=2), normal(300, 576, seed=3)]
    together = collect([measure(tensor) for tensor in tensors])
    for tensor, summary in zip(tensors, together, strict=True):
        alone = summarize(tensor)
        assert (alone.shape, alone.nan) == (summary.shape, summary.nan)
        assert relative_drift(alone, summary)[0] < 1e-6
        assert alone.std == pytest.approx(summary.std, rel=1e-5)


def test_a_change_in_place_after_measuring_is_not_seen() -> None:
    for width in (8, 600):
        tensor = normal(40, width, seed=1)
        measured, before = measure(tensor), summarize(tensor)
        tensor.zero_()
        assert relative_drift(collect([measured])[0], before)[0] < 1e-6
