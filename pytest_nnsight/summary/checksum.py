"""Compute a checksum of a tensor's bits, which tells whether two tensors are equal bit by bit.

Each 64-bit word is multiplied by a weight of its position, and the products are added up. A changed
bit changes the sum, and so do values that change places. Integers add up the same in any order, so
threads and devices do not matter. It does not protect against manipulation.

In a large tensor, 32 words at distances of 251 share a weight and are added up first, in one pass.
251 is a prime, so that tokens, heads or channels that change places still change the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

from pytest_nnsight.summary.projection import TensorCache

_APART, _TOGETHER = 251, 32
_MULTIPLIER = 6364136223846793005  # of Knuth's MMIX generator
Array = TypeVar("Array", np.ndarray, torch.Tensor)


def checksums(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the upper and lower 32 bits of the checksum of each of ``values [tensors, ...]``."""
    flat = values.reshape(len(values), -1)
    if flat.dtype == torch.float32 and flat.shape[1] % 2:
        flat = torch.nn.functional.pad(flat, (0, 1))
    elif flat.storage_offset() % 2:
        flat = flat.clone()  # a view as words needs an even offset
    sums, rest = _add_words(flat.view(torch.int64))
    weights = [_weights(sums.shape[1], 1, flat.device), _weights(rest.shape[1], 3, flat.device)]
    return _split((sums * weights[0]).sum(1) + (rest * weights[1]).sum(1))


def partial_sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of ``values [tensors, elements]`` that `total` needs."""
    if values.dtype == np.float32 and values.shape[1] % 2:
        values = np.pad(values, ((0, 0), (0, 1)))
    return _add_words(values.view(np.int64))


def total(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the checksums of all tensors from their `partial_sums`, in the form of `checksums`."""
    sums, rest = (np.concatenate(each) for each in zip(*parts, strict=True))
    cpu = torch.device("cpu")
    weights = [_weights(sums.shape[1], 1, cpu).numpy(), _weights(rest.shape[1], 3, cpu).numpy()]
    return _split((sums * weights[0]).sum(1) + (rest * weights[1]).sum(1))


def _add_words(words: Array) -> tuple[Array, Array]:
    """Return the sums of words that share a weight, and the words at the end that do not."""
    whole = words.shape[1] - words.shape[1] % (_APART * _TOGETHER)
    blocks = words[:, :whole].reshape(len(words), -1, _TOGETHER, _APART).sum(2)
    return blocks.reshape(len(words), -1), words[:, whole:]


def _split(total: Array) -> tuple[Array, Array]:
    return total >> 32 & 0xFFFFFFFF, total & 0xFFFFFFFF


@TensorCache
def _weights(count: int, offset: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, device=device) * _MULTIPLIER * 4 + offset
