"""A checksum of a tensor's bits, by which equal bits are told.

Words of 64 bits count with a weight of their place, so that neither a changed bit nor values that
changed places leave the sum as it was. Where there are many, 32 words that stand 251 apart, which
is no width of anything, are added up before they are weighted: one pass over memory. Integers add
up the same in any order: threads and kernels do not matter. It is no protection against malice.
"""

from __future__ import annotations

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


def split(total: int) -> tuple[float, float]:
    """Return a checksum as two whole numbers of 32 bits, which numbers of 64 bits can hold."""
    return float(total >> 32 & 0xFFFFFFFF), float(total & 0xFFFFFFFF)


class Checksum:
    """The checksum of tensors with so many float32 values, one at a time and on a CPU.

    As `checksums`, with all at hand that does not depend on the values.
    """

    def __init__(self, count: int) -> None:
        words = -(-count // 2)
        self.rest = words % (_APART * _TOGETHER)
        self.whole = words - self.rest
        cpu = torch.device("cpu")
        self.weights = _weights(self.whole // _TOGETHER, 1, cpu).numpy()
        self.weights_of_rest = _weights(self.rest, 3, cpu).numpy()

    def __call__(self, values: torch.Tensor) -> int:
        """Return the checksum, of 64 bits or more."""
        words = _words(values[None])
        total = 0
        if self.whole:
            shape, start = (self.whole // _TOGETHER // _APART, *_BLOCK), words.storage_offset()
            blocks = words.as_strided(shape, (_TOGETHER * _APART, _APART, 1), start)
            total = int(np.dot(blocks.sum(1).numpy().reshape(-1), self.weights))
        if self.rest:
            total += int(np.dot(words.numpy()[0, self.whole :], self.weights_of_rest))
        return total


def _added_up(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sums of words that stand apart, and the words that are too few for that."""
    words = _words(values)
    whole = words.shape[1] - words.shape[1] % (_APART * _TOGETHER)
    blocks = words[:, :whole].view(len(words), -1, *_BLOCK)
    return blocks.sum(2).flatten(1), words[:, whole:]


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
