"""A checksum of a tensor's bits, by which equal bits are told.

Words of 64 bits count with a weight of their place, so that neither a changed bit nor values that
changed places leave the sum as it was. Where there are many, 32 words that stand 251 apart, which
is no width of anything, are added up before they are weighted: one pass over memory. Integers add
up the same in any order: threads and kernels do not matter. It is no protection against malice.
"""

from __future__ import annotations

import numpy as np
import torch

from pytest_nnsight.summary.projection import Kept

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

    As `checksums`, with all at hand that does not depend on the values, and by numpy, whose views
    are made in a tenth of the time.
    """

    def __init__(self, count: int) -> None:
        words = -(-count // 2)
        self.is_odd = count % 2 == 1
        self.whole = words - words % (_APART * _TOGETHER)
        self.rest = words - self.whole
        self.blocks = (self.whole // _TOGETHER // _APART, *_BLOCK)
        cpu = torch.device("cpu")
        self.weights = _weights(self.whole // _TOGETHER, 1, cpu).numpy()
        self.weights_of_rest = _weights(self.rest, 3, cpu).numpy()

    def room_for(self, many: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where the words of so many tensors are added up: those that are, and the rest."""
        return np.empty((many, *self.blocks[::2]), np.int64), np.empty((many, self.rest), np.int64)

    def add_up(self, values: np.ndarray, into: tuple[np.ndarray, np.ndarray], at: int) -> None:
        """Read one tensor."""
        words = self._words(values.reshape(-1))
        np.add.reduce(words[: self.whole].reshape(self.blocks), 1, out=into[0][at])
        into[1][at] = words[self.whole :]

    def total(self, added: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
        """Return the checksum of each as two whole numbers of 32 bits."""
        sums, rests = added
        total = sums.reshape(len(sums), -1) @ self.weights + rests @ self.weights_of_rest
        return [(word >> 32 & 0xFFFFFFFF, word & 0xFFFFFFFF) for word in total.tolist()]

    def _words(self, flat: np.ndarray) -> np.ndarray:
        return (np.append(flat, np.float32(0)) if self.is_odd else flat).view(np.int64)


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
