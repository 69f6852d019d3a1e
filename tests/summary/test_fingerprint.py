"""Fingerprints of weights: which changes of their bytes show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from builders import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_nnsight.summary.fingerprint import digest, digests

quick = settings(deadline=None, max_examples=60)
SIZES = (1, 7, 8, 9, 240, 241, 1024, 8191, 2**20 + 3)  # XXH3 has a way of its own up to 240 bytes
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float64, torch.bool]


def weights(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return normal(rows, width, seed=seed)


@pytest.mark.parametrize("size", [17, 3 * 2**20 + 5])
def test_a_fingerprint_is_what_its_description_says(size: int) -> None:
    """The same bytes have the same fingerprint in every version of torch, numpy and xxhash."""
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    expected = {17: "d73fe3df4d2c1265", 3 * 2**20 + 5: "66891fd0abad5148"}
    assert digest(torch.from_numpy(data)) == expected[size]


@quick
@given(st.sampled_from(SIZES), st.data())
def test_any_changed_bit_shows(size: int, data: st.DataObject) -> None:
    x = torch.from_numpy(np.random.default_rng(size).integers(0, 256, size, np.uint8))
    y = x.clone()
    y[data.draw(st.integers(0, size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert digest(x) == digest(x.clone()) != digest(y)


@quick
@given(st.data())
def test_any_two_values_that_change_places_show(data: st.DataObject) -> None:
    x = weights(700, 576).to(data.draw(st.sampled_from([torch.float32, torch.bfloat16])))
    y = x.clone().flatten()
    first, second = (data.draw(st.integers(0, y.numel() - 1)) for _ in range(2))
    y[[first, second]] = y[[second, first]]
    assert (digest(x) == digest(y.view_as(x))) == torch.equal(x, y.view_as(x))


@quick
@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.int8, torch.float64]),
    st.sampled_from([64, 576, 768, 1024, 1536, 2042, 4096]),
    st.sampled_from([1, 3, 64, 128]),
    st.integers(0, 1),
    st.data(),
)
def test_rows_columns_and_blocks_that_change_places_show(
    dtype: torch.dtype, width: int, size: int, axis: int, data: st.DataObject
) -> None:
    """Heads and experts are such blocks; two rows of an identity matrix hold the same values."""
    rows, width = 384, max(width, size)
    is_eye = data.draw(st.booleans())
    x = torch.eye(rows, width).to(dtype) if is_eye else weights(rows, width).mul(9).to(dtype)
    parts = list(x.split(size, axis))
    first, second = (data.draw(st.integers(0, x.shape[axis] // size - 1)) for _ in range(2))
    parts[first], parts[second] = parts[second], parts[first]
    y = torch.cat(parts, axis)
    assert (digest(x) == digest(y)) == torch.equal(x, y)


CHANGES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "all signs": lambda x: -x,
    "every other sign": lambda x: x * torch.tensor([1.0, -1.0]).repeat(x.shape[1] // 2),
    "signs of two values of odd columns": lambda x: _negated(x, [(3, 5), (90, 7)]),
    "signs of two odd columns": lambda x: _negated(x, [(r, c) for r in range(600) for c in (1, 9)]),
    "signs of two rows": lambda x: _negated(x, [(r, c) for r in (4, 5) for c in range(576)]),
    "signs of every other row": lambda x: x * torch.tensor([[1.0], [-1.0]]).repeat(len(x) // 2, 1),
    "rows rolled": lambda x: x.roll(1, 0),
    "columns rolled": lambda x: x.roll(1, 1),
    "half a head rolled": lambda x: x.view(len(x), -1, 64).roll(32, 2).flatten(1),
    "reversed": lambda x: x.flip(0),
    "transposed": lambda x: x[:576].t(),
    "one up and one down": lambda x: _moved(x, 1 / 8),
    "bits that cancel in a sum": lambda x: _moved(x.view(torch.int32), 1).view(torch.float32),
}


def _negated(x: torch.Tensor, places: list[tuple[int, int]]) -> torch.Tensor:
    y = x.clone()
    for place in places:
        y[place] *= -1
    return y


def _moved(x: torch.Tensor, size: float) -> torch.Tensor:
    y = x.clone()
    y[17, 30] += size
    y[17, 34] -= size
    return y


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_that_cancel_in_plain_sums_show(
    change: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = (weights(600, 576) * 64).round() / 64
    assert digest(x[: len(change(x))]) != digest(change(x))


@quick
@given(st.sampled_from(DTYPES), st.integers(1, 300_000), st.integers(0, 9))
def test_where_bytes_lie_does_not_matter(dtype: torch.dtype, count: int, before: int) -> None:
    """Mapped files start a tensor at any byte that its dtype allows."""
    whole = normal(before + count, seed=1).mul(50).to(dtype)
    assert digest(whole[before:]) == digest(whole[before:].clone())


@pytest.mark.parametrize(
    "view",
    [lambda x: x.t(), lambda x: x[::2], lambda x: x[:, 3:50], lambda x: x.expand(3, -1, -1)],
    ids=["transposed", "every other row", "some columns", "expanded"],
)
def test_how_values_are_strided_does_not_matter(
    view: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = view(weights(300, 577))
    assert not x.is_contiguous()
    assert digest(x) == digest(x.contiguous())


def test_dtype_and_shape_are_part_of_it() -> None:
    x = weights(6, 4)
    others = [x.view(torch.int32), x.view(4, 6), x.flatten(), x[:3], x.to("meta"), x[:0]]
    assert len({digest(each) for each in [x, *others]}) == 7


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_matter(threads: int) -> None:
    tensors = {f"h.{i}": weights(100 * i, 576, seed=i) for i in range(7)}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert digests(tensors) == {name: digest(tensor) for name, tensor in tensors.items()}
        assert [*digests(tensors, ["h.3", "h.1"])] == ["h.3", "h.1"]
    finally:
        torch.set_num_threads(before)


def test_weights_are_not_copied() -> None:
    """They are mapped from files: a copy would use memory of the process."""
    x, views = weights(4000, 577)[1:], 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            nonlocal views
            out = func(*args, **(kwargs or {}))
            assert out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr(), func
            views += 1
            return out

    with Watch():
        digest(x)
    assert views
