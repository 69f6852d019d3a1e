"""A checksum of a tensor's bits, by which equal bits are told.

Words of 64 bits count with a weight of their place, so that neither a changed bit nor values that
changed places leave the sum as it was. Where there are many, 32 words that stand 251 apart, which
is no width of anything, are added up before they are weighted: one pass over memory. Integers add
up the same in any order: threads and kernels do not matter. It is no protection against malice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pytest_nnsight.projection import Kept

_APART, _TOGETHER = 251, 32
_BLOCK = (_TOGETHER, _APART)
_ODD = 6364136223846793005  # the multiplier of Knuth's MMIX generator


def checksums(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the checksum of each tensor, as two whole numbers of 32 bits."""
    sums, rest = _added_up(values)
    total = (rest * _weights(rest.shape[1], 3, values.device)).sum(1)
    if sums.numel():
        total += (sums * _weights(sums.shape[1], 1, values.device)).sum(1)
    return (total >> 32 & 0xFFFFFFFF).double(), (total & 0xFFFFFFFF).double()


class Checksum:
    """The checksums of tensors with so many float32 values, on a CPU.

    As `checksums`, with all at hand that does not depend on the values.
    """

    def __init__(self, count: int) -> None:
        words = -(-count // 2)
        self.rest = words % (_APART * _TOGETHER)
        self.whole = words - self.rest
        self.blocks = (self.whole // _TOGETHER // _APART, *_BLOCK)
        self.strides = (_TOGETHER * _APART, _APART, 1)
        cpu = torch.device("cpu")
        self.weights = _weights(self.whole // _TOGETHER, 1, cpu).numpy()
        self.weights_of_rest = _weights(self.rest, 3, cpu).numpy()

    def __call__(self, tensors: Sequence[torch.Tensor]) -> np.ndarray:
        """Return the checksum of each as two whole numbers of 32 bits, ``[tensors, 2]``."""
        words = [_words_of(values) for values in tensors]
        total = np.zeros(len(words), np.int64)
        if self.whole:
            sums = torch.empty(len(words), self.blocks[0], _APART, dtype=torch.int64)
            for of_one, into in zip(words, sums.unbind(), strict=True):
                torch.sum(of_one.as_strided(self.blocks, self.strides), 1, out=into)
            total += sums.view(len(words), -1).numpy() @ self.weights
        if self.rest:
            rests = torch.stack([of_one[self.whole :] for of_one in words])
            total += rests.numpy() @ self.weights_of_rest
        return np.stack([total >> 32 & 0xFFFFFFFF, total & 0xFFFFFFFF], 1)


def _added_up(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums of words that stand apart, and the words that are too few for that."""
    words = _words(values)
    whole = words.shape[1] - words.shape[1] % (_APART * _TOGETHER)
    blocks = words[:, :whole].view(len(words), -1, *_BLOCK)
    return blocks.sum(2).flatten(1), words[:, whole:]


def _words_of(values: torch.Tensor) -> torch.Tensor:
    """Return the words of a contiguous tensor, where they lie if they can be read there."""
    if values.numel() % 2 or values.storage_offset() % 2:
        return _words(values[None])[0]
    return values.view(-1).view(torch.int64)


def _words(values: torch.Tensor) -> torch.Tensor:
    flat = values.reshape(len(values), -1)
    if flat.shape[1] % 2:
        flat = torch.nn.functional.pad(flat, (0, 1))
    elif flat.storage_offset() % 2:
        flat = flat.clone()
    return flat.view(torch.int64)


@Kept
def _weights(count: int, offset: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, device=device) * _ODD * 4 + offset
