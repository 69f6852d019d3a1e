"""Tensor -> summary, by a handful of cheap operations on the tensor's own device.

A *token* is one vector of a tensor: the last axis of ``[batch, token, channel]``, and likewise of
``[token, channel]`` and ``[batch, head, token, channel]`` (there heads and channels together).
A token's values are divided by its own L2 norm before they are projected, so that one massive
token (22,500 among 75s in SmolLM2) does not hide the others; the norms themselves are kept beside.

The projection is a CountSketch (Charikar, Chen, Farach-Colton 2002) with 61 buckets: element ``i``
of the flattened tensor is added to bucket ``i mod 61`` with a random sign that depends on
``i div 61``. The squared distance of two sketches is an unbiased estimate of the squared distance
of the two tensors. It is computed as one vector-matrix product, without a table of signs as long
as the tensor. `docs/decisions/0001-token-normalised-sketch.md` has the reasons.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from pytest_nnsight.run import NORM_FLOOR, Summary

BUCKETS = 61
_SEED = 0x6E6E7369676874
_STATISTICS = 6  # min, max, sum, nan, inf, variance (NaN: to be derived from sum and norms)
_SMALLEST, _LARGEST = 1e-12, 1e12  # beyond these, float32 squares lose precision or overflow


@dataclass(frozen=True, slots=True)
class Measured:
    """The numbers of one tensor, still on its device; `collect` turns many into summaries."""

    shape: tuple[int, ...]
    dtype: str
    numbers: torch.Tensor | None
    tokens: int = 0
    exact: torch.Tensor | None = None


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


def measure(tensor: torch.Tensor) -> Measured:
    """Reduce one tensor to its numbers without waiting for its device.

    Half types are measured in float32, complex numbers as pairs. Integers and booleans are copied
    as they are, to be compared exactly.
    """
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    tensor = tensor.detach()
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return Measured(shape, dtype, None)
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.device.type == "mps":  # has no float64
        tensor = tensor.cpu()
    if tensor.is_complex():
        pairs = torch.view_as_real(tensor.resolve_conj())
        tensor = pairs.flatten(-2) if tensor.ndim else pairs
    elif not tensor.is_floating_point():
        return Measured(shape, dtype, None, exact=tensor.clone())
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    if tensor.dtype == torch.float64 and not _fits_float32(tensor):
        return Measured(shape, dtype, None, exact=tensor.clone())
    values = tokens_of(tensor).contiguous()
    return Measured(shape, dtype, _numbers(values), tokens=values.shape[0])


def collect(measured: Sequence[Measured]) -> list[Summary]:
    """Bring the numbers of many tensors to the host, one transfer a device, as summaries."""
    host: dict[int, np.ndarray] = {}
    by_device: dict[torch.device, list[int]] = {}
    for index, item in enumerate(measured):
        if item.numbers is not None:
            by_device.setdefault(item.numbers.device, []).append(index)
    for indices in by_device.values():
        parts = [numbers for i in indices if (numbers := measured[i].numbers) is not None]
        flat = torch.cat(parts).cpu().numpy()
        ends = np.cumsum([len(part) for part in parts])
        host.update(zip(indices, np.split(flat, ends[:-1]), strict=True))
    return [_summary(item, host.get(index)) for index, item in enumerate(measured)]


def _numbers(values: torch.Tensor) -> torch.Tensor:
    """Return ``[min, max, sum, nan, inf, variance, *norms, *sketch]`` as float64.

    ``values`` is ``[tokens, values]``.
    """
    norms = torch.linalg.vector_norm(values, dim=1)
    total = values.sum()
    low, high = torch.aminmax(values)
    zero = torch.zeros((), dtype=torch.float64, device=values.device)
    nan = inf = zero
    variance = zero + torch.nan
    # The check waits for the device, which costs nothing on a CPU; elsewhere always take the
    # careful way, whose extra passes are cheap there.
    if values.device.type != "cpu" or _needs_care(values, norms, total, low, high):
        nan, inf = values.isnan().sum().double(), values.isinf().sum().double()
        finite = values.isfinite()
        low = values.masked_fill(~finite, torch.inf).min()
        high = values.masked_fill(~finite, -torch.inf).max()
        values = values.masked_fill(~finite, 0.0).double()
        norms, total = torch.linalg.vector_norm(values, dim=1), values.sum()
        count = finite.sum().double()
        variance = (values - total / count).masked_fill(~finite, 0.0).square().sum() / count
    weights = token_weights(norms)
    head = torch.stack([low.double(), high.double(), total.double(), nan, inf, variance])
    return torch.cat([head, norms.double(), project(values, weights.to(values.dtype)).double()])


def _needs_care(
    values: torch.Tensor,
    norms: torch.Tensor,
    total: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
) -> bool:
    """Tell whether float32 is not enough: NaN, Inf, squares out of range, mean far above std."""
    largest = max(abs(float(low)), abs(float(high)))
    if not math.isfinite(largest) or not (_SMALLEST < largest < _LARGEST or largest == 0):
        return True
    square, mean = float(norms.square().sum()), float(total) / values.numel()
    return mean * mean * values.numel() > 0.99 * square > 0


def _fits_float32(tensor: torch.Tensor) -> bool:
    """Tell whether the numbers of a float64 tensor survive as float32, as norms are kept."""
    largest = float(torch.where(tensor.isfinite(), tensor, 0.0).abs().max())
    return largest == 0 or 1e-30 < largest < 1e30


def token_weights(norms: torch.Tensor) -> torch.Tensor:
    """Return what each token is multiplied with: one over its norm, floored by the median token."""
    floor = NORM_FLOOR * norms.median()
    largest = torch.maximum(norms, floor)
    return torch.where(largest > 0, 1.0 / largest, torch.zeros_like(largest))


def project(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the 61-bucket CountSketch of ``values * weights[:, None]`` for ``[tokens, values]``.

    Linear in ``values``. The product with the weights is never made: a row of 61 elements is
    scaled by the weight of the token it starts in, and rows that straddle two tokens are corrected.
    """
    tokens, width = values.shape
    if width % BUCKETS == 0:  # each channel would keep to one bucket for all tokens
        values, width = torch.nn.functional.pad(values, (0, 1)), width + 1
    if width < BUCKETS:
        values, weights = (values * weights[:, None]).reshape(1, -1), values.new_ones(1)
        tokens, width = values.shape
    flat = values.reshape(-1)
    rows = flat.numel() // BUCKETS
    signs = _signs(_power_of_two(rows + 1), values.dtype, values.device)
    main = flat[: rows * BUCKETS].view(rows, BUCKETS)
    sketch = (signs[:rows] * weights[_first_tokens(rows, width, values.device)]) @ main
    row, token, mask = _straddling(rows, tokens, width, values.dtype, values.device)
    if len(row):
        change = signs[row] * (weights[token] - weights[token - 1])
        sketch = sketch + change @ (main[row] * mask)
    tail = flat[rows * BUCKETS :] * (signs[rows] * weights[-1])
    sketch[: len(tail)] += tail
    return sketch


def _power_of_two(count: int) -> int:
    return max(1024, 1 << (count - 1).bit_length())


@lru_cache(maxsize=64)
def _signs(count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the first ``count`` random signs, the same in every version of numpy and torch."""
    words = np.random.Philox(key=_SEED).random_raw(-(-count // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")[:count]
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1).to(device=device, dtype=dtype)


@lru_cache(maxsize=256)
def _first_tokens(rows: int, width: int, device: torch.device) -> torch.Tensor:
    """Return for each row of 61 elements the token its first element belongs to."""
    return torch.arange(rows, device=device) * BUCKETS // width


@lru_cache(maxsize=256)
def _straddling(
    rows: int, tokens: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the rows that hold the start of a token, that token, and a mask from there on."""
    token = torch.arange(1, tokens, device=device)
    start = token * width
    row, offset = start // BUCKETS, start % BUCKETS
    inside = (offset > 0) & (row < rows)
    row, offset, token = row[inside], offset[inside], token[inside]
    mask = torch.arange(BUCKETS, device=device)[None, :] >= offset[:, None]
    return row, token, mask.to(dtype)


def _summary(item: Measured, numbers: np.ndarray | None) -> Summary:
    if item.exact is not None:
        return _exact_summary(item)
    if numbers is None:
        return Summary(item.shape, item.dtype)
    low, high, total, nan, inf, variance = (float(x) for x in numbers[:_STATISTICS])
    norms = numbers[_STATISTICS : _STATISTICS + item.tokens]
    sketch = numbers[_STATISTICS + item.tokens :]
    elements = math.prod(item.shape) * (2 if item.dtype.startswith("complex") else 1)
    finite = int(elements - nan - inf)
    if not finite:
        return Summary(item.shape, item.dtype, nan=int(nan), inf=int(inf))
    mean, square = total / finite, float(np.square(norms).sum()) / finite
    return Summary(
        shape=item.shape,
        dtype=item.dtype,
        minimum=low,
        maximum=high,
        mean=mean,
        std=math.sqrt(max(square - mean * mean, 0.0) if math.isnan(variance) else variance),
        rms=math.sqrt(square),
        nan=int(nan),
        inf=int(inf),
        norms=_float32_bytes(norms),
        sketch=_float32_bytes(sketch),
    )


def _exact_summary(item: Measured) -> Summary:
    """Summarise integers and booleans: bounds and mean to read, a digest to compare."""
    assert item.exact is not None
    values = item.exact.cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
    numbers = values.double()
    return Summary(
        shape=item.shape,
        dtype=item.dtype,
        minimum=float(numbers.min()),
        maximum=float(numbers.max()),
        mean=float(numbers.mean()),
        digest=digest,
    )


def _float32_bytes(values: np.ndarray) -> bytes:
    with np.errstate(over="ignore"):
        return values.astype("<f4").tobytes()
