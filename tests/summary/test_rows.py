"""Numbers of the tokens of masks and integers: equal numbers stand for an equal meaning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.run import Summary
from pytest_nnsight.summary.rows import numbers_of_sets, read_rows
from pytest_nnsight.summary.summarizer import Summarizer

LOWEST = torch.finfo(torch.float32).min
shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9))


def as_mask(tensor: torch.Tensor) -> Summary:
    """Summarise a tensor as the recorder does that of an argument called ``attention_mask``."""
    summarizer = Summarizer()
    with torch.no_grad():
        summarizer.add(tensor, is_mask=True)
    return summarizer.finish()[0]


def rows(tensor: torch.Tensor) -> list[int]:
    return read_rows(as_mask(tensor).rows).tolist()


def floats(shown: torch.Tensor, hidden: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shown.shape, dtype=dtype).masked_fill(~shown, hidden)


@st.composite
def masks(draw: st.DrawFn) -> torch.Tensor:
    """Draw which keys each query sees: ``[batch, 1, queries, keys]``."""
    batch, queries, keys = draw(shapes)
    count = batch * queries * keys
    shown = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return torch.tensor(shown).view(batch, 1, queries, keys)


@settings(deadline=None, max_examples=60)
@given(masks(), st.integers(0, 4))
def test_masks_of_one_meaning_have_equal_rows(shown: torch.Tensor, more: int) -> None:
    expected = rows(shown)
    assert len(expected) == shown.shape[0] * shown.shape[2]
    for hidden in (-torch.inf, LOWEST, -1e4):
        assert rows(floats(shown, hidden)) == expected
    assert rows(floats(shown, -6e4, torch.float16)) == expected
    assert rows(shown.long()) == rows(shown.expand(-1, 4, -1, -1).clone()) == expected
    assert rows(shown.expand(-1, 4, -1, -1)) == expected
    assert rows(torch.nn.functional.pad(shown, (0, more))) == expected  # of a static cache
    assert rows(shown[:, 0]) == rows(shown.flatten(0, 2)) == expected


@settings(deadline=None, max_examples=100)
@given(masks(), st.data())
def test_each_row_stands_for_the_keys_that_it_shows(
    shown: torch.Tensor, data: st.DataObject
) -> None:
    index = tuple(data.draw(st.integers(0, size - 1)) for size in shown.shape)
    other = shown.clone()
    other[index] ^= True
    changed = np.flatnonzero(np.array(rows(shown)) != np.array(rows(other)))
    assert changed.tolist() == [index[0] * shown.shape[2] + index[2]]


def test_sets_of_the_same_sum_differ() -> None:
    pairs = np.array([[i in pair for i in range(8)] for pair in ((0, 7), (1, 6), (2, 5), (3, 4))])
    assert len({*numbers_of_sets(pairs, np.arange(8)).tolist()}) == 4


def test_heads_that_see_other_keys_count() -> None:
    shown = torch.ones(1, 2, 3, 4, dtype=torch.bool).tril()
    other = shown.clone()
    other[0, 1, 0, 1] = True
    swapped = other.flip(1)
    assert len({rows(mask)[0] for mask in (shown, other, swapped)}) == 3
    assert rows(other)[1:] == rows(shown)[1:]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([[[[0.0, -8.0]]]]),
        torch.tensor([[[[0.0, 1.0]]]]),
        torch.tensor([[[[0.0, torch.nan]]]]),
        torch.zeros(0, 1, 2, 2),
        torch.zeros(1, 1, 2, 2, device="meta"),
    ],
    ids=["dimmed", "added", "nan", "empty", "meta"],
)
def test_floats_that_are_no_mask_have_no_rows(tensor: torch.Tensor) -> None:
    assert as_mask(tensor).rows == b""


def test_a_floating_point_tensor_of_another_name_has_no_rows() -> None:
    summarizer = Summarizer()
    summarizer.add(torch.zeros(1, 1, 2, 2))
    assert summarizer.finish()[0].rows == b""


@pytest.mark.parametrize(
    ("shape", "count"),
    [((), 1), ((7,), 7), ((2, 9), 18), ((40, 3), 120), ((600, 4), 600), ((2, 5, 3), 10)],
)
def test_each_integer_of_a_batch_of_ids_is_a_token(shape: tuple[int, ...], count: int) -> None:
    values = torch.arange(np.prod(shape, dtype=int)).view(shape)
    summarizer = Summarizer()
    summarizer.add(values)
    summarizer.add(values.int() + (values == values.max()))
    before, now = (read_rows(each.rows) for each in summarizer.finish())
    assert len(before) == len(now) == count
    assert (before[:-1] == now[:-1]).all()
    assert before[-1] != now[-1]
