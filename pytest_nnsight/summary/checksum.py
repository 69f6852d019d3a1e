"""Compute a checksum of a tensor's bits, which tells whether two tensors are equal bit by bit.

Each 64-bit word is multiplied by a weight of its position and added up, so that neither a changed
bit nor values that change places leave the sum as it was. Integers add up the same in any order:
threads and devices do not matter. It is no protection against malice.

Of a large tensor, 32 words that stand 251 apart share a weight: they are added up first, in one
pass over memory. 251 is a prime, so that no tokens, heads or channels can change places unseen.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from pytest_nnsight.summary.projection import TensorCache

_APART, _TOGETHER = 251, 32
_MULTIPLIER = 6364136223846793005  # of Knuth's MMIX generator
Array = TypeVar("Array", np.ndarray, torch.Tensor)


def checksums(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the checksum of each of ``values [tensors, ...]`` as two numbers of 32 bits."""
    flat = values.reshape(len(values), -1)
    if flat.dtype == torch.float32 and flat.shape[1] % 2:
        flat = torch.nn.functional.pad(flat, (0, 1))
    elif flat.storage_offset() % 2:
        flat = flat.clone()  # a view as words needs an even offset
    sums, rest = add_words(flat.view(torch.int64))
    of_sums, of_rest = word_weights(sums.shape[1], rest.shape[1], values.device)
    return split(weighted_sum(sums, of_sums) + weighted_sum(rest, of_rest))


def words_of(values: np.ndarray) -> np.ndarray:
    """View ``values [tensors, elements]`` as 64-bit words, padded with a zero where odd."""
    if values.dtype == np.float32 and values.shape[1] % 2:
        values = np.pad(values, ((0, 0), (0, 1)))
    return values.view(np.int64)


def add_words(words: Array) -> tuple[Array, Array]:
    """Return the sums of words that share a weight, and the words at the end that do not."""
    whole = words.shape[1] - words.shape[1] % (_APART * _TOGETHER)
    blocks = words[:, :whole].reshape(len(words), -1, _TOGETHER, _APART).sum(2)
    return blocks.reshape(len(words), -1), words[:, whole:]


def word_weights(sums: int, rest: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights of so many sums, and of so many words at the end."""
    return _weights(sums, 1, device), _weights(rest, 3, device)


def weighted_sum(words: Array, weights: Array) -> Array:
    """Add up the words ``[tensors, words]`` with their weights, modulo 2**64."""
    total: Array = (words * weights).sum(1)
    return total


def split(total: Array) -> tuple[Array, Array]:
    """Return the upper and the lower 32 bits of each checksum."""
    return total >> 32 & 0xFFFFFFFF, total & 0xFFFFFFFF


@TensorCache
def _weights(count: int, offset: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, device=device) * _MULTIPLIER * 4 + offset
