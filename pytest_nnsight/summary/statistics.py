"""Tensors of one shape -> their numbers, by a handful of cheap operations on their own device.

A *token* is one vector of a tensor: the last axis of ``[batch, token, channel]``, and likewise of
``[token, channel]`` and ``[batch, head, token, channel]`` (there heads and channels together).
Each token is projected by itself and its norm is kept beside, so that one massive token (22,500
among 75s in SmolLM2) does not hide the others.
`docs/decisions/0004-a-projection-for-each-token.md` has the reasons for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

from pytest_nnsight.summary.checksum import Checksum, checksums
from pytest_nnsight.summary.projection import Projection, project, row_products

# min, max, sum, nan, inf, variance (NaN: to be derived from sum and square), square, digest in two
STATISTICS = 9
_ROWS = 64  # of a piece of memory for norms and projections
_Number = TypeVar("_Number", float, np.ndarray)
_SMALLEST, _LARGEST = 1e-12, 1e12  # beyond these, float32 squares lose precision or overflow


def tokens_of(tensor: torch.Tensor) -> torch.Tensor:
    """View ``tensor`` as ``[tokens, values]``: axes 0 and -2 count tokens, the rest are values."""
    if tensor.ndim < 2:
        return tensor.reshape(1, -1)
    if tensor.ndim == 2:
        return tensor
    if tensor.ndim == 3:
        return tensor.reshape(-1, tensor.shape[-1])
    moved = tensor.movedim(-2, 1)
    return moved.reshape(moved.shape[0] * moved.shape[1], -1)


def measurable(tensor: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the values ``[tokens, values]`` to measure, or those to keep exactly, or neither.

    Half types are measured in float32, complex numbers as pairs. Integers and booleans are kept
    as they are, to be compared exactly.
    """
    tensor = tensor.detach().resolve_neg()
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return None, None
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.device.type == "mps":  # has no float64
        tensor = tensor.cpu()
    if tensor.is_complex():
        pairs = torch.view_as_real(tensor.resolve_conj())
        tensor = pairs.flatten(-2) if tensor.ndim else pairs
    elif not tensor.is_floating_point():
        return None, tensor
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    if tensor.dtype == torch.float64 and not _fits_float32(tensor):
        return None, tensor
    return tokens_of(tensor), None


def measured_numbers(values: torch.Tensor) -> torch.Tensor:
    """Return ``[*statistics, *norms, *projections]`` of each tensor, as float64.

    ``values`` is ``[tensors, tokens, values]``. Under autocast as well in their own dtype.
    """
    if torch.is_autocast_enabled(values.device.type):
        with torch.autocast(values.device.type, enabled=False):
            return measured_numbers(values)
    values = values.contiguous()
    # To ask whether the quick way will do waits for the device, which costs nothing on a CPU;
    # elsewhere always take the careful way, whose extra passes are cheap there.
    quick = values.device.type == "cpu"
    return _quick_numbers(values) if quick else _careful_numbers(values)


class Gauge:
    """Measures large tensors of one shape, in float32 and on a CPU, a few at a time.

    By numpy, whose operations take half of what torch's take on a tensor of this size, and all of
    them on one tensor before the next, so that only the first reads it from memory.
    """

    def __init__(self, tokens: int, width: int) -> None:
        self.tokens, self.elements = tokens, tokens * width
        self.ones = np.ones(width, np.float32)
        self.project = Projection(tokens, width, torch.float32, torch.device("cpu"))
        table = self.project.table
        self.signs: np.ndarray | None = None if table is None else table.numpy()
        self.checksum = Checksum(tokens * width)
        # As Python's numbers, and in a few large pieces: what numpy keeps between freed activations
        # holds their memory.
        self.heads: list[tuple[float, ...]] = []
        self.kept: list[np.ndarray] = []

    def measure(self, tensors: Sequence[torch.Tensor]) -> list[int]:
        """Measure each ``[tokens, values]``; return which need more than float32, and were not."""
        bounds = np.empty((len(tensors), 2), np.float32)
        sums, squares, projected = np.empty((3, len(tensors), self.tokens), np.float32)
        added = self.checksum.room_for(len(tensors))
        with np.errstate(all="ignore"):  # Inf and NaN are told by the bounds
            for at, tensor in enumerate(tensors):
                values = tensor.numpy()
                np.minimum.reduce(values, None, out=bounds[at, 0, ...])
                np.maximum.reduce(values, None, out=bounds[at, 1, ...])
                row_products(values, self.ones, sums[at])
                row_products(values, values, squares[at])
                if self.signs is not None:
                    row_products(values, self.signs, projected[at])
                self.checksum.add_up(values, added, at)
            totals, lengths = (each.sum(1, dtype=np.float64) for each in (sums, squares))
        if self.signs is None:
            with torch.autocast("cpu", enabled=False):
                projected = self.project(tensors).numpy()
        norms, bits = np.sqrt(squares), self.checksum.total(added)
        heads = zip(bounds.tolist(), totals.tolist(), lengths.tolist(), bits, strict=True)
        odd = []
        for index, ((low, high), total, square, (upper, lower)) in enumerate(heads):
            if _is_sound(low, high, total, square, self.elements):
                self.heads.append((low, high, total, 0, 0, math.nan, square, upper, lower))
                self._keep(norms[index], projected[index])
            else:
                odd.append(index)
        return odd

    def _keep(self, norms: np.ndarray, projected: np.ndarray) -> None:
        row = (len(self.heads) - 1) % _ROWS
        if not row:
            self.kept.append(np.empty((_ROWS, 2, self.tokens), np.float32))
        self.kept[-1][row, 0], self.kept[-1][row, 1] = norms, projected

    def numbers(self) -> np.ndarray:
        """Return those of all tensors for which float32 was enough, as `measured_numbers`."""
        count = len(self.heads)
        if not count:
            return np.empty((0, STATISTICS + 2 * self.tokens))
        kept = np.concatenate(self.kept)[:count].reshape(count, -1)
        return np.concatenate([np.array(self.heads), kept], 1)


def _quick_numbers(values: torch.Tensor) -> torch.Tensor:
    """Return the numbers of each tensor on a CPU, the careful way only where that is needed."""
    bounds = (values.amin((1, 2)), values.amax((1, 2)))  # aminmax over an axis is 20 times slower
    low, high = (column.double().numpy() for column in bounds)
    rows = values.numpy()
    with np.errstate(all="ignore"):  # Inf and NaN are told by the bounds
        sums = row_products(rows, np.ones(rows.shape[-1], rows.dtype))
        squares = row_products(rows, rows)
        total, square = (each.sum(1, dtype=np.float64) for each in (sums, squares))
    norms = torch.from_numpy(np.sqrt(squares))
    head = np.zeros((len(values), STATISTICS))
    head[:, 0], head[:, 1], head[:, 2], head[:, 5] = low, high, total, math.nan
    head[:, 6] = square
    for column, words in enumerate(checksums(values), 7):
        head[:, column] = words.numpy()
    numbers = torch.cat([torch.from_numpy(head), norms, project(values).flatten(1)], 1)
    is_sound = _is_sound(low, high, total, head[:, 6], values[0].numel())
    if not is_sound.all():
        unsound = torch.from_numpy(~is_sound)
        numbers[unsound] = _careful_numbers(values[unsound])
    return numbers


def _is_sound(low: _Number, high: _Number, total: _Number, square: _Number, count: int) -> _Number:
    """Tell of a tensor, or of each of several, whether float32 was enough.

    Not for NaN and Inf, squares out of range, and a mean far above the deviation.
    """
    is_in_range = (abs(low) < _LARGEST) & (abs(high) < _LARGEST)  # not so for NaN
    is_in_range &= (abs(low) > _SMALLEST) | (abs(high) > _SMALLEST) | ((low == 0) & (high == 0))
    mean = total / count
    return is_in_range & (mean * mean * count <= 0.99 * square)


def _careful_numbers(values: torch.Tensor) -> torch.Tensor:
    """Return the numbers of each tensor, by float64 and without what is not finite."""
    finite = values.isfinite()
    nan, inf = values.isnan().sum((1, 2)), values.isinf().sum((1, 2))
    low = values.masked_fill(~finite, torch.inf).amin((1, 2))
    high = values.masked_fill(~finite, -torch.inf).amax((1, 2))
    known = values.masked_fill(~finite, 0.0).double()
    total, square = known.sum((1, 2)), known.square().sum((1, 2))
    count = finite.sum((1, 2)).double()
    centred = (known - (total / count)[:, None, None]).masked_fill(~finite, 0.0)
    variance = centred.square().sum((1, 2)) / count
    marked = _with_marks(values, known)
    norms = torch.linalg.vector_norm(marked, dim=2)
    return _joined([low, high, total, nan, inf, variance, square], values, norms, marked)


def _joined(
    head: list[torch.Tensor], values: torch.Tensor, norms: torch.Tensor, projected: torch.Tensor
) -> torch.Tensor:
    """Put the numbers of each tensor in one row."""
    columns = torch.stack([column.double() for column in (*head, *checksums(values))], 1)
    return torch.cat([columns, norms.double(), project(projected).flatten(1).double()], 1)


def _with_marks(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Replace Inf and NaN by numbers as large as the largest, so that their places show."""
    largest = known.abs().amax((1, 2), keepdim=True)
    mark = torch.where(largest > 0, largest, 1.0)
    marked = torch.where(values.isinf(), mark * values.double().sign(), known)
    return torch.where(values.isnan(), 2 * mark, marked)


def _fits_float32(tensor: torch.Tensor) -> bool:
    """Tell whether the numbers of a float64 tensor survive as float32, as norms are kept."""
    largest = float(torch.where(tensor.isfinite(), tensor, 0.0).abs().max())
    return largest == 0 or 1e-30 < largest < 1e30
