"""Measure tensors: bounds, sums, norms, projections and a checksum of each.

A *token* is one vector of a tensor: the last axis of ``[batch, token, channel]``, and likewise of
``[token, channel]`` and ``[batch, head, token, channel]``, where heads and channels count together.
Each token has a norm and a projection of its own, so that one very large token does not hide the
others. `docs/decisions/0002-a-projection-for-each-token.md` has the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from pytest_nnsight.run import numbers_per_token
from pytest_nnsight.summary.checksum import checksums, partial_sums, total
from pytest_nnsight.summary.projection import project, row_products, sign_table
from pytest_nnsight.summary.rows import numbers_of_lists, numbers_of_sets

STATISTICS = 9
"""min, max, sum, NaN count, Inf count, variance, sum of squares, checksum in two.

The variance is NaN where it follows from sum and sum of squares.
"""
_HIDDEN = -1e4  # a value that a mask adds to a score, or a lower one, hides the key
_FEW, _MANY = 2**8, 2**16  # integers that have a number each
_SMALLEST, _LARGEST = 1e-12, 1e12  # beyond these, float32 squares lose precision or overflow


def tokens_of(tensor: torch.Tensor) -> torch.Tensor:
    """View ``tensor`` as ``[tokens, width]``: axes 0 and -2 count tokens."""
    if tensor.ndim < 2:
        return tensor.reshape(1, -1)
    if tensor.ndim <= 3:
        return tensor.reshape(-1, tensor.shape[-1])
    moved = tensor.movedim(-2, 1)
    return moved.reshape(moved.shape[0] * moved.shape[1], -1)


def measurable(tensor: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the values ``[tokens, width]`` to measure, or a tensor to keep exactly, or neither.

    Half types are measured in float32, complex numbers as pairs.
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
    if tensor.dtype == torch.float64:
        largest = float(torch.where(tensor.isfinite(), tensor, 0.0).abs().max())
        if largest != 0 and not 1e-30 < largest < 1e30:  # norms are stored with float32's range
            return None, tensor
    return tokens_of(tensor), None


def row_numbers(tensor: torch.Tensor, is_mask: bool) -> torch.Tensor | None:
    """Return a number of 32 bits, as int64, for each token of a mask or of integers, else ``None``.

    The number of a query of a mask stands for the keys that it may attend to, whatever the dtype
    and form of the mask. Where all heads agree, one number stands for them. In one or two
    dimensions, as in ``[batch, token]``, each integer is a token.
    """
    if not tensor.numel() or tensor.device.type == "meta" or tensor.layout is not torch.strided:
        return None
    tensor, shape = tensor.detach(), tensor.shape
    attends = _attends(tensor) if is_mask and 2 <= tensor.ndim <= 4 else None
    if attends is not None:
        keys = torch.arange(shape[-1], device=tensor.device)
        numbers = torch.stack([numbers_of_sets(part, keys) for part in attends])
        if tensor.ndim < 4:
            return numbers.flatten()
        heads = torch.arange(numbers.shape[1], device=tensor.device)
        together = numbers_of_lists(numbers.transpose(1, 2), heads)
        agree = (numbers == numbers[:, :1]).all(1)
        return torch.where(agree, numbers[:, 0], together).flatten()
    if tensor.is_floating_point() or tensor.is_complex():
        return None
    values = tokens_of(tensor.long())
    is_wide = len(values) < values.shape[1] and tensor.numel() <= _MANY
    if tensor.ndim <= 2 and (is_wide or tensor.numel() <= _FEW):
        values = values.reshape(-1, 1)
    return numbers_of_lists(values, torch.arange(values.shape[1], device=tensor.device))


def _attends(tensor: torch.Tensor) -> torch.Tensor | None:
    """Return which keys a mask shows; ``None`` for other values than those of a mask."""
    if tensor.ndim == 4 and not tensor.stride(1):
        tensor = tensor[:, :1]  # expanded over the heads
    shown = tensor == 0 if tensor.is_floating_point() else tensor == 1
    hidden = tensor <= _HIDDEN if tensor.is_floating_point() else tensor == 0
    return shown if bool((shown | hidden).all()) else None


def measure(stacks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the numbers of tensors of one shape: float64 ``[tensors, 9 + tokens + projections]``.

    Each of ``stacks`` is ``[tensors, tokens, width]`` in float32 or float64. A row holds the
    `STATISTICS`, the norm of each token, then the projections token by token. numpy measures on a
    CPU, torch on other devices and where float32 is not enough. Autocast has no effect.
    """
    device = stacks[0].device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return measure(stacks)
    if device == "cpu":
        return _measure_on_cpu([stack.contiguous() for stack in stacks])
    return torch.cat([measure_carefully(stack.contiguous()) for stack in stacks])


def _measure_on_cpu(stacks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Measure by numpy in half of torch's time, and where float32 is not enough by torch.

    One stack goes through all operations before the next: only the first reads it from memory.
    """
    ends = np.cumsum([len(stack) for stack in stacks]).tolist()
    count, (tokens, width), first = ends[-1], stacks[0].shape[1:], stacks[0].numpy()
    signs = sign_table(tokens, width, stacks[0].dtype) if numbers_per_token(tokens) == 1 else None
    ones, partial = np.ones(width, first.dtype), []
    low, high = np.empty((2, count), first.dtype)
    sums, squares, projected = np.empty((3, count, tokens), first.dtype)
    with np.errstate(all="ignore"):  # NaN and Inf show in the bounds
        for stack, end in zip(stacks, ends, strict=True):
            part, values = slice(end - len(stack), end), stack.numpy()
            flat = values.reshape(len(values), -1)
            np.minimum.reduce(flat, 1, out=low[part])
            np.maximum.reduce(flat, 1, out=high[part])
            row_products(values, ones, sums[part])
            row_products(values, values, squares[part])
            if signs is not None:
                row_products(values, signs, projected[part])
            partial.append(partial_sums(flat))
        head = np.zeros((count, STATISTICS))
        head[:, 0], head[:, 1], head[:, 5] = low, high, math.nan
        head[:, 2], head[:, 6] = sums.sum(1, dtype=np.float64), squares.sum(1, dtype=np.float64)
        head[:, 7], head[:, 8] = total(partial)
        is_sound = _is_sound(head, width * tokens)
    if signs is None:
        projected = torch.cat([project(stack) for stack in stacks]).numpy()
    numbers = np.concatenate([head, np.sqrt(squares), projected.reshape(count, -1)], 1)
    for stack, end in zip(stacks, ends, strict=True):
        unsound = np.flatnonzero(~is_sound[end - len(stack) : end])
        if len(unsound):
            numbers[end - len(stack) + unsound] = measure_carefully(stack[unsound]).numpy()
    return torch.from_numpy(numbers)


def _is_sound(head: np.ndarray, elements: int) -> np.ndarray:
    """Tell for each tensor whether float32 was enough.

    It is not for NaN and Inf, for squares out of range, and for a mean far above the deviation.
    """
    low, high, mean, square = head[:, 0], head[:, 1], head[:, 2] / elements, head[:, 6]
    is_in_range = (abs(low) < _LARGEST) & (abs(high) < _LARGEST)  # false for NaN
    is_in_range &= (abs(low) > _SMALLEST) | (abs(high) > _SMALLEST) | ((low == 0) & (high == 0))
    is_sound: np.ndarray = is_in_range & (mean * mean * elements <= 0.99 * square)
    return is_sound


def measure_carefully(values: torch.Tensor) -> torch.Tensor:
    """Measure ``values [tensors, tokens, width]`` by torch in float64, without NaN and Inf."""
    finite = values.isfinite()
    nan, inf = values.isnan().sum((1, 2)), values.isinf().sum((1, 2))
    low = values.masked_fill(~finite, torch.inf).amin((1, 2))
    high = values.masked_fill(~finite, -torch.inf).amax((1, 2))
    known = values.masked_fill(~finite, 0.0).double()
    sums, square = known.sum((1, 2)), known.square().sum((1, 2))
    count = finite.sum((1, 2)).double()
    centred = (known - (sums / count)[:, None, None]).masked_fill(~finite, 0.0)
    variance = centred.square().sum((1, 2)) / count
    marked = _with_marks(values, known)
    norms = torch.linalg.vector_norm(marked, dim=2)
    columns = [low, high, sums, nan, inf, variance, square, *checksums(values)]
    head = torch.stack([column.double() for column in columns], 1)
    return torch.cat([head, norms, project(marked).flatten(1)], 1)


def _with_marks(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Replace Inf and NaN by numbers as large as the largest, so that their places show."""
    largest = known.abs().amax((1, 2), keepdim=True)
    mark = torch.where(largest > 0, largest, 1.0)
    marked = torch.where(values.isinf(), mark * values.double().sign(), known)
    return torch.where(values.isnan(), 2 * mark, marked)
