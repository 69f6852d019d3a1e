"""Tensor -> summary: statistics, norms, and what stays the same however it is measured."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from builders import normal, summarize, summarize_all
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.compare.distance import distance
from pytest_nnsight.run import Summary, numbers_per_token, token_count
from pytest_nnsight.summary.checksum import checksums
from pytest_nnsight.summary.packing import pack_norms, read_norms, unpack
from pytest_nnsight.summary.projection import project, row_products
from pytest_nnsight.summary.statistics import measure, measure_carefully, tokens_of
from pytest_nnsight.summary.summarizer import Summarizer, transfer, version_of

quick = settings(deadline=None, max_examples=50)
BFLOAT16 = 2**-8  # the largest relative error of a number that is rounded to 8 bits


def sketch_of(summary: Summary) -> np.ndarray:
    return unpack([(summary.norms, summary.sketch)])[1][0].flatten()


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


@pytest.mark.parametrize("width", [200, 2000])
@pytest.mark.parametrize("tokens", [1, 7, 60, 61, 100])
def test_a_summary_keeps_the_projection_and_the_norm_of_each_token(tokens: int, width: int) -> None:
    x = normal(1, tokens, width)
    summary = summarize(x)
    assert len(summary.norms) == 2 * tokens
    assert len(summary.sketch) == 1 + 3 * tokens * numbers_per_token(tokens)
    expected = project(x[0].double()).flatten().numpy()
    np.testing.assert_allclose(sketch_of(summary), expected, atol=2e-5 * (width / 200) ** 0.5)


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


@quick
@given(st.floats(1e-38, 3e38, allow_subnormal=False))
def test_norms_are_good_to_four_in_a_thousand(norm: float) -> None:
    assert read_norms(pack_norms(np.array([norm])))[0] == pytest.approx(norm, rel=BFLOAT16)


def test_norms_are_rounded_to_the_nearest_even() -> None:
    """As torch rounds to bfloat16, so that norms are the same wherever they are packed."""
    norms = normal(1000, seed=3).abs() * 10 ** normal(1000, seed=4)
    edges = torch.tensor([0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 3.38e38, math.inf, math.nan])
    together = torch.cat([norms, edges])
    expected = together.bfloat16().view(torch.int16).numpy().tobytes()
    assert pack_norms(together.double().numpy())[: 2 * 1006] == expected[: 2 * 1006]
    assert math.isnan(read_norms(pack_norms(np.array([math.nan])))[0])


def test_same_input_gives_the_same_bytes() -> None:
    for shape in ((2, 41, 200), (2, 41, 576)):
        x = normal(*shape)
        assert summarize(x) == summarize(x.clone()) == summarize(x.clone().requires_grad_())


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


def test_summary_does_not_depend_on_what_is_collected_with_it() -> None:
    tensors = [normal(1, 5, 64), torch.arange(4), torch.empty(0), normal(3, dtype=torch.float64)]
    assert summarize_all(tensors) == [summarize(x) for x in tensors]


def test_the_summaries_of_nothing_are_none() -> None:
    assert Summarizer().finish() == []


def test_tensors_measured_together_are_measured_as_each_alone() -> None:
    """Also where one among them needs care, or is of another shape."""
    tensors = [1000**i * normal(1, 5, 70, seed=i) for i in range(6)]
    tensors[2][0, 1, 3] = float("nan")
    tensors[3:3] = [normal(9, seed=1), normal(3, 2, 8, 70, seed=2), normal(300, 576, seed=3)]
    for tensor, together in zip(tensors, summarize_all(tensors), strict=True):
        alone = summarize(tensor)
        assert (alone.shape, alone.nan, alone.digest) == (
            together.shape,
            together.nan,
            together.digest,
        )
        scale = float(read_norms(alone.norms).max())
        np.testing.assert_allclose(sketch_of(alone), sketch_of(together), atol=1e-6 * scale)
        np.testing.assert_allclose(
            read_norms(alone.norms), read_norms(together.norms), rtol=2 * BFLOAT16
        )
        assert (alone.minimum, alone.maximum) == (together.minimum, together.maximum)
        assert alone.std == pytest.approx(together.std, rel=1e-5)
        assert distance(alone, together).is_same


@pytest.mark.parametrize("shape", [(64, 1024), (65, 1024), (5, 8), (600, 600)])
def test_a_tensor_is_the_same_among_any_number_of_its_shape(shape: tuple[int, int]) -> None:
    """They wait for others of their shape until there are enough."""
    tensors = [normal(1, *shape, seed=seed) for seed in range(15)]
    for tensor, together in zip(tensors, summarize_all(tensors), strict=True):
        alone = summarize(tensor)
        assert (alone.digest, alone.minimum) == (together.digest, together.minimum)
        assert alone.mean == pytest.approx(together.mean, abs=1e-6)
        assert distance(alone, together).is_same


def test_what_waits_is_measured_before_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_nnsight.summary.summarizer._MOST_HELD", 1_000)
    tensors = [normal(1, tokens, 5, seed=tokens) for tokens in range(1, 20)]
    assert summarize_all(tensors) == [summarize(tensor) for tensor in tensors]
    summarizer = Summarizer()
    for tensor in tensors:
        summarizer.add(tensor)
        waiting = [one for group in summarizer._groups.values() for _, one, _ in group.waiting]
        assert summarizer._held == sum(values.nbytes for values in waiting) <= 1_000


def test_what_was_begun_in_inference_mode_goes_on_outside() -> None:
    first, second, summarizer = normal(3, 5), normal(3, 5, seed=1), Summarizer()
    with torch.inference_mode():
        summarizer.add(first)
    summarizer.add(second)
    assert summarizer.finish() == summarize_all([first, second])


def test_a_change_in_place_after_measuring_is_not_seen() -> None:
    for tensor in (normal(40, 8), normal(40, 600), torch.arange(7), normal(3).double() * 1e40):
        before, summarizer = summarize(tensor), Summarizer()
        summarizer.add(tensor)
        tensor.zero_()
        assert summarizer.finish() == [before]


LARGE = (300, 576)


@pytest.mark.parametrize("shape", [(40, 8), LARGE, (2, 3, 5, 4)])
def test_a_held_tensor_that_is_changed_while_it_waits_is_lost(shape: tuple[int, ...]) -> None:
    """Which is told; one that has been measured, or was not held, is not lost."""
    for holds in (True, False):
        summarizer = Summarizer(holds=holds)
        tensor = normal(*shape)
        before = summarize(tensor)
        summarizer.add(tensor, version_of(tensor))
        tensor[0].mul_(2)
        found = summarizer.finish()
        assert summarizer.has_lost == (holds and found != [before])
    assert found == [before]


def test_what_is_held_is_no_copy() -> None:
    tensor = normal(*LARGE)
    reference = weakref.ref(tensor)
    summarizer = Summarizer(holds=True)
    summarizer.add(tensor, version_of(tensor))
    del tensor
    assert reference() is not None
    (summary,), there = summarizer.finish(), reference()
    assert (there, summarizer.has_lost, summary) == (None, False, summarize(normal(*LARGE)))


def test_a_small_part_of_a_large_tensor_does_not_hold_it() -> None:
    whole = normal(500, 600)
    reference = weakref.ref(whole.untyped_storage())
    summarizer = Summarizer(holds=True)
    part = whole[3:5]
    expected = summarize(part)
    summarizer.add(normal(2, 600), 0)
    summarizer.add(part, version_of(part))
    del whole, part
    assert reference() is None
    assert summarizer.finish()[-1].digest == expected.digest


def test_a_tensor_of_inference_mode_is_copied() -> None:
    """It does not count its changes."""
    summarizer = Summarizer(holds=True)
    with torch.inference_mode():
        tensor = normal(40, 8) + 1
        before = summarize(tensor)
        summarizer.add(tensor, version_of(tensor))
        tensor.zero_()
    assert (summarizer.finish(), summarizer.has_lost) == ([before], False)


def test_tensors_of_every_kind_are_measured_as_each_alone() -> None:
    """Also those that happen to have the shape of others."""
    large, small = normal(*LARGE), normal(1, 1, 64)
    tensors = [small, normal(1, 1, 64, seed=2), small.half(), small.double(), small > 0]
    tensors += [large, normal(1, 8, 64)[:, 3:4], normal(1, 64, 1).mT, small * math.nan]
    tensors += [torch.empty(1, 0, 64), normal(1, 1, 64, seed=3), large, torch.arange(5)]
    tensors += [normal(*LARGE[::-1]).mT.clone()]  # in the order of its strides, and no view
    summarizer = Summarizer(holds=True)
    places = [summarizer.add(each, version_of(each)) for each in tensors]
    assert places == [*range(len(tensors))]
    together, alone = summarizer.finish(), [summarize(each) for each in tensors]
    assert repr(together) == repr(alone)  # in which a NaN equals another
    assert not summarizer.has_lost


def test_a_large_tensor_with_an_odd_number_of_values_has_the_digest_of_a_small_one() -> None:
    x = normal(301, 577)
    upper, lower = checksums(x[None])
    assert summarize(x).digest == f"{int(upper) << 32 | int(lower):016x}"


def test_all_that_waits_is_measured_once_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all shapes at one time; nothing that was given is held any longer."""
    monkeypatch.setattr("pytest_nnsight.summary.summarizer._MOST_HELD", 40 * 256)
    tensors = [normal(1, 1, 64, seed=seed) for seed in range(30)]
    tensors += [normal(1, 1, 32, seed=seed) for seed in range(21)]
    expected = [summarize(tensor) for tensor in tensors]
    given = [tensor.clone() for tensor in tensors]
    references = [weakref.ref(tensor) for tensor in given]
    summarizer = Summarizer(holds=True)
    for tensor in given:
        summarizer.add(tensor, 0)
    del tensor, given
    assert {reference() for reference in references} == {None}
    assert summarizer.finish() == expected


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


@pytest.mark.parametrize("width", [1, 8191, 8192, 8193, 20_000])
def test_rows_of_any_width_are_multiplied(width: int) -> None:
    """Wide ones in parts, the last of which may be a short one."""
    rows, others = normal(3, width), normal(3, width, seed=1)
    found = row_products(rows.numpy(), others.numpy(), into := np.empty(3, np.float32))
    assert found is into
    torch.testing.assert_close(
        torch.from_numpy(found).double(),
        (rows.double() * others).sum(1),
        rtol=0,
        atol=1e-6 * width**0.5,
    )
    torch.testing.assert_close(
        torch.from_numpy(row_products(rows.numpy(), np.ones(width, np.float32))).double(),
        rows.double().sum(1),
        rtol=0,
        atol=1e-6 * width**0.5,
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, 1e-30, 7.0])
def test_a_large_tensor_that_needs_care_has_it(value: float) -> None:
    alone = torch.full((100, 700), value) if value in (1e30, 1e-30, 7.0) else normal(100, 700)
    alone[3, 4] = value
    numbers = measure([alone[None], normal(1, 100, 700, seed=1)])
    torch.testing.assert_close(numbers[0], measure_carefully(alone[None])[0], equal_nan=True)
    together = measure([torch.stack([alone, normal(100, 700, seed=1)])])
    torch.testing.assert_close(numbers, together, equal_nan=True)
    assert numbers[:, 5].isfinite().tolist() == [True, False]  # the variance, left out otherwise


@pytest.mark.parametrize("width", [1, 61, 64, 192, 512, 513, 1031, 1536])
def test_a_projection_of_one_number_a_token_has_a_sign_for_each_element(width: int) -> None:
    """Whichever way it is taken, its square is right on average."""
    tokens = normal(400, width)
    numbers = project(tokens[None])[0, :, 0]
    assert float(numbers.square().sum() / tokens.square().sum()) == pytest.approx(1, abs=0.45)
    ones = project(torch.eye(width).repeat(-(-61 // width), 1)[None])
    assert ones.abs().unique().tolist() == [1]


def test_all_that_is_on_an_accelerator_comes_over_as_one() -> None:
    """There is none here: what would come from it is put together and taken apart alike."""
    tensors = [
        torch.arange(7, dtype=torch.int8),
        normal(3, 5).double().t(),
        torch.tensor(5),
        torch.tensor([[True], [False]]),
        torch.empty(0, 4, dtype=torch.int64),
    ]
    for tensor, part in zip(tensors, transfer(tensors), strict=True):
        assert part.dtype == tensor.dtype
        assert torch.equal(part, tensor)
