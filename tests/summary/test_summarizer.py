"""`Summarizer`: equal summaries in every order of measuring, and how much memory waits."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from builders import distance, normal, summarize, summarize_all
from hypothesis import settings

from pytest_nnsight.run import Summary, numbers_per_token
from pytest_nnsight.summary.checksum import checksums
from pytest_nnsight.summary.packing import read_norms, unpack
from pytest_nnsight.summary.projection import project
from pytest_nnsight.summary.summarizer import Summarizer, transfer, version_of

quick = settings(deadline=None, max_examples=50)
BFLOAT16 = 2**-8  # the largest relative error of a number that is rounded to 8 bits


def sketch_of(summary: Summary) -> np.ndarray:
    return unpack([(summary.norms, summary.sketch)])[1][0].flatten()


@pytest.mark.parametrize("width", [200, 2000])
@pytest.mark.parametrize("tokens", [1, 7, 60, 61, 100])
def test_a_summary_keeps_the_projection_and_the_norm_of_each_token(tokens: int, width: int) -> None:
    x = normal(1, tokens, width)
    summary = summarize(x)
    assert len(summary.norms) == 2 * tokens
    assert len(summary.sketch) == 1 + 3 * tokens * numbers_per_token(tokens)
    expected = project(x[0].double()).flatten().numpy()
    np.testing.assert_allclose(sketch_of(summary), expected, atol=2e-5 * (width / 200) ** 0.5)


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
    """`was_overwritten` says so; a tensor that was measured or copied before is not affected."""
    for holds in (True, False):
        summarizer = Summarizer(holds_references=holds)
        tensor = normal(*shape)
        before = summarize(tensor)
        summarizer.add(tensor, version_of(tensor))
        tensor[0].mul_(2)
        found = summarizer.finish()
        assert summarizer.was_overwritten == (holds and found != [before])
    assert found == [before]


def test_what_is_held_is_no_copy() -> None:
    tensor = normal(*LARGE)
    reference = weakref.ref(tensor)
    summarizer = Summarizer(holds_references=True)
    summarizer.add(tensor, version_of(tensor))
    del tensor
    assert reference() is not None
    (summary,), there = summarizer.finish(), reference()
    assert (there, summarizer.was_overwritten, summary) == (None, False, summarize(normal(*LARGE)))


def test_a_small_part_of_a_large_tensor_does_not_hold_it() -> None:
    whole = normal(500, 600)
    reference = weakref.ref(whole.untyped_storage())
    summarizer = Summarizer(holds_references=True)
    part = whole[3:5]
    expected = summarize(part)
    summarizer.add(normal(2, 600), 0)
    summarizer.add(part, version_of(part))
    del whole, part
    assert reference() is None
    assert summarizer.finish()[-1].digest == expected.digest


def test_a_tensor_of_inference_mode_is_copied() -> None:
    """It does not count its changes."""
    summarizer = Summarizer(holds_references=True)
    with torch.inference_mode():
        tensor = normal(40, 8) + 1
        before = summarize(tensor)
        summarizer.add(tensor, version_of(tensor))
        tensor.zero_()
    assert (summarizer.finish(), summarizer.was_overwritten) == ([before], False)


def test_tensors_of_every_kind_are_measured_as_each_alone() -> None:
    """Also those that happen to have the shape of others."""
    large, small = normal(*LARGE), normal(1, 1, 64)
    tensors = [small, normal(1, 1, 64, seed=2), small.half(), small.double(), small > 0]
    tensors += [large, normal(1, 8, 64)[:, 3:4], normal(1, 64, 1).mT, small * math.nan]
    tensors += [torch.empty(1, 0, 64), normal(1, 1, 64, seed=3), large, torch.arange(5)]
    tensors += [normal(*LARGE[::-1]).mT.clone()]  # in the order of its strides, and no view
    summarizer = Summarizer(holds_references=True)
    places = [summarizer.add(each, version_of(each)) for each in tensors]
    assert places == [*range(len(tensors))]
    together, alone = summarizer.finish(), [summarize(each) for each in tensors]
    assert repr(together) == repr(alone)  # in which a NaN equals another
    assert not summarizer.was_overwritten


def test_a_large_tensor_with_an_odd_number_of_values_has_the_digest_of_a_small_one() -> None:
    x = normal(301, 577)
    upper, lower = checksums(x[None])
    assert summarize(x).digest == f"{int(upper) << 32 | int(lower):016x}"


def test_all_that_waits_is_measured_once_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """All shapes are measured at once; afterwards no tensor is referenced."""
    monkeypatch.setattr("pytest_nnsight.summary.summarizer._MOST_HELD", 40 * 256)
    tensors = [normal(1, 1, 64, seed=seed) for seed in range(30)]
    tensors += [normal(1, 1, 32, seed=seed) for seed in range(21)]
    expected = [summarize(tensor) for tensor in tensors]
    given = [tensor.clone() for tensor in tensors]
    references = [weakref.ref(tensor) for tensor in given]
    summarizer = Summarizer(holds_references=True)
    for tensor in given:
        summarizer.add(tensor, 0)
    del tensor, given
    assert {reference() for reference in references} == {None}
    assert summarizer.finish() == expected


def test_all_tensors_of_an_accelerator_are_copied_in_one_transfer() -> None:
    """Runs on the CPU, where tensors are joined and split in the same way."""
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
