"""A checksum tells tensors apart that differ in a bit, or in the order of their values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from builders import distance, normal, summarize, summarize_all
from hypothesis import given, settings
from hypothesis import strategies as st

quick = settings(deadline=None, max_examples=100)
# One token, a few, more than 1,024 values (the digest's rows), more than are held back.
SHAPES = [(3,), (1, 64), (1, 576), (2, 1024), (1, 7, 64), (1, 7, 61), (1, 41, 576), (2, 3, 5, 16)]
INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64, torch.bfloat16: torch.int16}


def digest(tensor: torch.Tensor) -> str:
    return summarize(tensor).digest


def is_same(x: torch.Tensor, y: torch.Tensor) -> bool:
    return distance(summarize(x), summarize(y)).is_same


def flipped(tensor: torch.Tensor, index: int, bit: int) -> torch.Tensor:
    """Return a copy with one bit of one element flipped."""
    copy = tensor.clone()
    integer = INTEGERS[tensor.dtype]
    words = copy.view(integer).view(-1)
    width = torch.iinfo(integer).bits
    mask = 1 << bit if bit < width - 1 else torch.iinfo(integer).min
    words[index] ^= mask
    return copy


@quick
@given(
    st.sampled_from(SHAPES),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**20),
    st.data(),
)
def test_any_flipped_bit_shows(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    x = normal(*shape, seed=seed, dtype=dtype)
    index = data.draw(st.integers(0, x.numel() - 1), "index")
    bit = data.draw(st.integers(0, x.element_size() * 8 - 1), "bit")
    y = flipped(x, index, bit)
    assert not is_same(x, y)
    assert is_same(flipped(y, index, bit), x)


def test_any_flipped_bit_of_a_half_type_shows() -> None:
    x = normal(3, 70).bfloat16()
    changed = [flipped(x, 101, bit) for bit in range(16)]
    assert len({digest(x), *map(digest, changed)}) == 17


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_minus_zero_is_not_zero(shape: tuple[int, ...]) -> None:
    zeros = torch.zeros(shape)
    minus = zeros.clone()
    minus.view(-1)[2] = -0.0
    assert torch.equal(zeros, minus)
    assert not is_same(zeros, minus)


@quick
@given(
    st.sampled_from(SHAPES),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**20),
    st.data(),
)
def test_two_elements_in_each_others_place_show(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    x = normal(*shape, seed=seed, dtype=dtype)
    first, second = data.draw(
        st.lists(st.integers(0, x.numel() - 1), min_size=2, max_size=2, unique=True), "places"
    )
    y = x.clone()
    y.view(-1)[[first, second]] = x.view(-1)[[second, first]]
    assert not is_same(x, y)


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("axis", [-2, -1], ids=["tokens", "channels"])
def test_any_two_tokens_or_channels_in_each_others_place_show(
    shape: tuple[int, ...], axis: int
) -> None:
    """Of those whose elements fall into the same of the 61 buckets, too."""
    x = normal(*shape)
    size = shape[axis]
    before = summarize(x)
    pairs = [(0, 1), (0, 2), (1, 3), (2, 4), (0, size - 1), (size // 2, size - 1)]
    pairs += [(a, a + 61 * n) for a in range(5) for n in range(1, 9)]
    for a, b in pairs:
        if a < b < size:
            order = torch.arange(size)
            order[[a, b]] = torch.tensor([b, a])
            after = summarize(x.index_select(axis, order))
            assert not distance(before, after).is_same, (a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_value_that_moves_to_another_place_shows(dtype: torch.dtype) -> None:
    """There are several blocks of 1,024 values, whose sums must not be interchangeable."""
    size = 3100
    summaries = summarize_all(list(torch.eye(size, dtype=dtype).view(size, 1, size)))
    for step in (1, 2, 3, 61, 122, 244, 512, 1024, 2048):
        moved = zip(summaries, summaries[step:], strict=False)
        assert not any(distance(before, now).is_same for before, now in moved), step


def test_values_swapped_over_a_long_way_show() -> None:
    """So far apart that they share a bucket of the projection and a column of the checksum."""
    x = normal(1, 250_000)
    before = summarize(x)
    for first in range(6):
        for times in (1, 2, 3):
            second = first + times * 61 * 1024
            y = x.clone()
            y[0, [first, second]] = x[0, [second, first]]
            assert not distance(before, summarize(y)).is_same, (first, second)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "change",
    [
        lambda x: -x,
        lambda x: x * (1 - 2 * (torch.arange(x.shape[-1]) % 2)),
        lambda x: x * (2 * (torch.arange(x.shape[-1]) % 2) - 1),
        lambda x: x.roll(2, -1),
        lambda x: x.flip(-1),
    ],
    ids=["negated", "odd-negated", "even-negated", "rolled", "reversed"],
)
def test_a_change_of_all_values_shows(
    change: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]
) -> None:
    """Changes that cancel where bits are only added up."""
    x = normal(*shape)
    assert not is_same(x, change(x))


def test_zeros_that_move_show() -> None:
    x, zeros = normal(200), torch.zeros(2)
    assert not is_same(torch.cat([zeros, x]), torch.cat([x, zeros]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [100, 101, 20_000, 20_001])
@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_a_view_at_any_offset_is_the_same_as_its_copy(
    offset: int, width: int, dtype: torch.dtype
) -> None:
    """A view of floats as 64-bit words wants an even offset."""
    view = normal(width + 4, dtype=dtype)[offset : offset + width]
    assert is_same(view, view.clone())


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.transpose(1, 2),
        lambda x: x[:, 1::2],
        lambda x: x[..., 1::3],
        lambda x: x[:, 1:, 1:],
        lambda x: x.flip(1),
        lambda x: x[1],
    ],
    ids=["transposed", "every-other-token", "every-third-channel", "cut", "flipped", "row"],
)
@pytest.mark.parametrize("tokens", [10, 150])
def test_a_view_is_the_same_as_its_copy(
    view: Callable[[torch.Tensor], torch.Tensor], tokens: int
) -> None:
    x = view(normal(2, tokens, 67))
    assert is_same(x, x.clone(memory_format=torch.contiguous_format))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set torch's threads; they are set back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_threads_do_not_change_the_digest(threads: Callable[[int], None]) -> None:
    x = normal(1, 300, 577)
    threads(1)
    alone = digest(x)
    threads(2)
    assert digest(x) == alone


def test_nan_and_inf_count_by_their_bits() -> None:
    x = normal(1, 7, 64)
    seen = []
    for value in (float("nan"), float("inf"), -float("inf")):
        for place in (3, 5):
            y = x.clone()
            y[0, 2, place] = value
            seen.append(digest(y))
    assert len({digest(x), *seen}) == 7


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool], ids=str
)
def test_swapped_integers_and_booleans_have_another_digest(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 0, 1], [0, 1, 1]]).to(dtype)
    y = x[:, [1, 0, 2]]
    assert len(digest(x)) == 16
    assert is_same(x, x.t().contiguous().t())
    assert not is_same(x, y)


@quick
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20, unique=True))
def test_integers_that_differ_have_another_digest(numbers: list[int]) -> None:
    assert len({digest(torch.tensor([number])) for number in numbers}) == len(numbers)


@pytest.mark.parametrize("dtype", ["<i8", "<i4", "u1", "?"])
def test_the_digest_of_integers_is_the_same_in_every_version(dtype: str) -> None:
    """The start of a SHA-256 over their bytes."""
    numbers = (np.arange(12) % 5).astype(dtype).reshape(3, 4)
    expected = hashlib.sha256(numbers.tobytes()).hexdigest()[:16]
    assert digest(torch.from_numpy(numbers)) == expected
