"""The bytes of a tensor -> whole numbers that change with any of them, in one pass over memory.

Bytes are taken as words of 64 bits, in blocks of 127 rows of 1021 words, a megabyte: while a block
is in the cache, each of its rows and each of its columns is added up. Whole numbers add up the same
in any order and on any device. Both sizes are primes, which no matrix has: rows, columns and heads
of a matrix that change places meet in no row and no column of a block. What shows in no sum are
changes at the four corners of a rectangle of a block that cancel along each of its sides, as those
of two rows of an identity matrix whose width is a multiple of 1021. It is no protection against
malice.

A multiplication for each word would tell those as well, but takes numpy and torch three times as
long as a sum; what reads as fast as memory gives are sums alone.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

_ROWS, _COLUMNS = 127, 1021
_ROW = 8 * _COLUMNS  # in bytes
_AT_ONCE = 128 * _ROWS  # rows that are added up at once on an accelerator
_SEED = 0x626C6F636B73
_HALF = np.uint64(32)


def block_sums(data: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return a number of 64 bits for each block of a tensor's bytes, and the bytes of no full row.

    ``data`` is ``uint8``. Bytes on an accelerator are added up there.
    """
    whole = len(data) // _ROW * _ROW
    rest = data[whole:].cpu().numpy()
    if data.device.type != "cpu":
        return _numbers(_on_device(data[:whole])), rest
    words = data[:whole].numpy().view(np.uint64).reshape(-1, _COLUMNS)
    return _numbers(_of_words(words)), rest


def _of_words(words: np.ndarray) -> np.ndarray:
    """Return the sums of each block's rows and columns, ``[blocks, 127 + 1021]``."""
    blocks = -(-len(words) // _ROWS)
    sums = np.empty((blocks, _ROWS + _COLUMNS), np.uint64)
    sums[-1:, :_ROWS] = 0
    is_aligned, add_up, start = words.flags.aligned, np.add.reduce, 0
    for of_one in sums:
        block = words[start : start + _ROWS]
        if not is_aligned:
            block = block.copy()  # words across their borders take numpy three times as long
        add_up(block, 1, out=of_one[: len(block)])
        add_up(block, 0, out=of_one[_ROWS:])
        start += _ROWS
    return sums


def _on_device(data: torch.Tensor) -> np.ndarray:
    """Return the same without bringing bytes to the host."""
    if data.data_ptr() % 8 or data.storage_offset() % 8:
        data = data.clone()
    found = [np.empty((0, _ROWS + _COLUMNS), np.int64)]
    words = data.view(torch.int64).view(-1, _COLUMNS)
    for start in range(0, len(words), _AT_ONCE):
        rows = words[start : start + _AT_ONCE]
        padded = torch.nn.functional.pad(rows, (0, 0, 0, -len(rows) % _ROWS))
        blocks = padded.view(-1, _ROWS, _COLUMNS)
        found.append(torch.cat([blocks.sum(2), blocks.sum(1)], 1).cpu().numpy())
    return np.concatenate(found).view(np.uint64)


def _numbers(sums: np.ndarray) -> np.ndarray:
    """Return one number for the sums of each block, which changes with any of them."""
    sums ^= sums >> _HALF  # or two changed signs, 2**63 each, would cancel
    found: np.ndarray = sums @ _weights()
    return found


@cache
def _weights() -> np.ndarray:
    """Return an odd random number for each row and column, the same in every version of numpy."""
    numbers: np.ndarray = np.random.Philox(key=_SEED).random_raw(_ROWS + _COLUMNS)
    return numbers | np.uint64(1)
