"""A checksum of a tensor's bits, by which equal bits are told. None protects against malice.

What lies in the memory of this machine is hashed by XXH3, as fast as it is read. On an accelerator,
and where the model runs elsewhere, words of 64 bits count with a weight of their place, so that
neither a changed bit nor values that changed places leave the sum as it was. Where there are many,
32 words that stand 251 apart, which is no width of anything, are added up before they are weighted.
Integers add up the same in any order: threads and kernels do not matter. The two kinds differ:
between two kinds of devices no bits are expected to be equal.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import xxhash

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


def hashes(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Return the hash of the bytes of each contiguous array, ``[arrays, 2]`` as of `checksums`."""
    each = [xxhash.xxh3_64_intdigest(array.data) for array in arrays]
    whole = np.array(each, np.uint64)
    return np.stack([whole >> np.uint64(32), whole & np.uint64(0xFFFFFFFF)], 1).astype(np.float64)


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
