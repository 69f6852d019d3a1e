"""A checksum of a tensor's bits, by which equal bits are told.

Words of 64 bits lie in rows of 512. Each counts with a weight of its row and one of its column, so
that neither a changed bit nor values that changed places leave the sum as it was. Integers add up
the same in any order: threads and kernels do not matter. It is no protection against malice.
"""

from __future__ import annotations

import torch

from pytest_nnsight.projection import Kept

_WORDS = 512  # of 64 bits, that are added up before they are weighted by where they stand
_ODD = 6364136223846793005  # the multiplier of Knuth's MMIX generator


def checksums(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the checksum of each tensor, as two whole numbers of 32 bits."""
    flat = values.reshape(len(values), -1)
    if flat.shape[1] % 2 or flat.storage_offset() % 2:
        flat = torch.nn.functional.pad(flat, (0, 2 - flat.shape[1] % 2))
    words = flat.view(torch.int64)
    whole = words.shape[1] // _WORDS * _WORDS
    rows, rest = words[:, :whole].view(len(words), -1, _WORDS), words[:, whole:]
    by_row = (rows.sum(2) * _of_rows(rows.shape[1], values.device)).sum(1)
    by_column = (rows.sum(1) * _of_columns(values.device)).sum(1)
    total = by_row + by_column + (rest * _of_rest(rest.shape[1], values.device)).sum(1)
    return (total >> 32).double(), (total & 0xFFFFFFFF).double()


def checksum(values: torch.Tensor) -> int:
    """Return the checksum of one tensor, as `checksums` of several."""
    flat = values.reshape(-1)
    if flat.numel() % 2 or flat.storage_offset() % 2:
        flat = torch.nn.functional.pad(flat, (0, 2 - flat.numel() % 2))
    words = flat.view(torch.int64)
    whole = words.numel() // _WORDS * _WORDS
    rows, rest = words[:whole].view(-1, _WORDS), words[whole:]
    total = int(torch.dot(rest, _of_rest(len(rest), values.device)))
    if whole:
        total += int(torch.dot(rows.sum(1), _of_rows(len(rows), values.device)))
        total += int(torch.dot(rows.sum(0), _of_columns(values.device)))
    return (total + 2**63) % 2**64 - 2**63  # as 64 bits with a sign overflow


def _of_rows(count: int, device: torch.device) -> torch.Tensor:
    return _weights(count, 2, 1, device)


def _of_columns(device: torch.device) -> torch.Tensor:
    return _weights(_WORDS, 6, 2, device)


def _of_rest(count: int, device: torch.device) -> torch.Tensor:
    return _weights(count, 10, 3, device)


@Kept
def _weights(count: int, factor: int, offset: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, device=device) * _ODD * factor + offset
