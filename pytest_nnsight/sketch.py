"""Tensor -> summary, by a handful of cheap operations on the tensor's own device.

A *token* is one vector of a tensor: the last axis of ``[batch, token, channel]``, and likewise of
``[token, channel]`` and ``[batch, head, token, channel]`` (there heads and channels together).
Each token is projected by itself and its norm is kept beside, so that one massive token (22,500
among 75s in SmolLM2) does not hide the others.

Tensors of few values, such as one token's, are copied and measured together later: a handful of
small operations costs its dispatch, not its arithmetic.
`docs/decisions/0004-a-projection-for-each-token.md` has the reasons for the rest.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pytest_nnsight.checksum import checksum, checksums
from pytest_nnsight.packing import Packed, pack
from pytest_nnsight.projection import project
from pytest_nnsight.run import Summary

_FEW = 16_384  # values of a tensor that is measured later, together with others of its shape
# min, max, sum, nan, inf, variance (NaN: to be derived from sum and square), square, digest in two
STATISTICS = 9
_SMALLEST, _LARGEST = 1e-12, 1e12  # beyond these, float32 squares lose precision or overflow


@dataclass(frozen=True, slots=True)
class Measured:
    """The numbers of one tensor, still on its device; `collect` turns many into summaries.

    Instead of numbers it may hold the tensor's values ``[tokens, values]``, to be measured with
    others (`measure_held`), or an ``exact`` copy.
    """

    shape: tuple[int, ...]
    dtype: str
    tokens: int = 0
    numbers: torch.Tensor | None = None
    held: torch.Tensor | None = None
    exact: torch.Tensor | None = None

    @property
    def held_bytes(self) -> int:
        """The memory of the values that wait to be measured."""
        return 0 if self.held is None else self.held.nbytes


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
    values, exact = measurable(tensor)
    if exact is not None:
        return Measured(shape, dtype, exact=exact.clone())
    if values is None:
        return Measured(shape, dtype)
    if values.numel() <= _FEW:
        return Measured(shape, dtype, len(values), held=values.clone())
    return Measured(shape, dtype, len(values), measured_numbers(values[None])[0])


def measurable(tensor: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the values ``[tokens, values]`` to measure, or those to keep exactly, or neither."""
    tensor = tensor.detach()
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
    return tokens_of(tensor).contiguous(), None


def measure_held(measured: Sequence[Measured]) -> list[Measured]:
    """Measure the tensors that wait for it, those of one shape in one go."""
    groups: dict[tuple[torch.Size, torch.dtype, torch.device], list[int]] = {}
    for index, item in enumerate(measured):
        if item.held is not None:
            key = (item.held.shape, item.held.dtype, item.held.device)
            groups.setdefault(key, []).append(index)
    done = list(measured)
    for indices in groups.values():
        stacked = torch.stack([held for i in indices if (held := measured[i].held) is not None])
        for index, numbers in zip(indices, measured_numbers(stacked), strict=True):
            done[index] = replace(measured[index], numbers=numbers, held=None)
    return done


def collect(measured: Sequence[Measured]) -> list[Summary]:
    """Bring the numbers of many tensors to the host, one transfer a device, as summaries."""
    measured = measure_held(measured)
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
    tokens = [measured[index].tokens + STATISTICS for index in host]
    kept = pack([(n[STATISTICS:at], n[at:]) for n, at in zip(host.values(), tokens, strict=True)])
    packed = dict(zip(host, kept, strict=True))
    return [
        _summary(item, host.get(index), packed.get(index, (b"", b"")))
        for index, item in enumerate(measured)
    ]


def measured_numbers(values: torch.Tensor) -> torch.Tensor:
    """Return ``[*statistics, *norms, *projections]`` of each tensor, as float64.

    ``values`` is ``[tensors, tokens, values]``. Under autocast as well in their own dtype.
    """
    if torch.is_autocast_enabled(values.device.type):
        with torch.autocast(values.device.type, enabled=False):
            return measured_numbers(values)
    if len(values) == 1 and values.device.type == "cpu":
        numbers = _numbers_of_one(values)
        if numbers is not None:
            return numbers
    high_bits, low_bits = checksums(values)
    norms = torch.linalg.vector_norm(values, dim=2)
    total, square = values.sum((1, 2)), norms.double().square().sum(1)
    low, high = values.amin((1, 2)), values.amax((1, 2))  # aminmax over an axis is 20 times slower
    zero = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    nan = inf = zero
    variance = zero + torch.nan
    # The check waits for the device, which costs nothing on a CPU; elsewhere always take the
    # careful way, whose extra passes are cheap there.
    if values.device.type != "cpu" or _needs_care(values, norms, total, low, high):
        finite = values.isfinite()
        nan, inf = values.isnan().sum((1, 2)).double(), values.isinf().sum((1, 2)).double()
        low = values.masked_fill(~finite, torch.inf).amin((1, 2))
        high = values.masked_fill(~finite, -torch.inf).amax((1, 2))
        known = values.masked_fill(~finite, 0.0).double()
        total, square = known.sum((1, 2)), known.square().sum((1, 2))
        count = finite.sum((1, 2)).double()
        centred = (known - (total / count)[:, None, None]).masked_fill(~finite, 0.0)
        variance = centred.square().sum((1, 2)) / count
        values = _with_marks(values, known)
        norms = torch.linalg.vector_norm(values, dim=2)
    norms = norms.double()
    head = [low.double(), high.double(), total.double(), nan, inf, variance]
    head += [square, high_bits, low_bits]
    return torch.cat([torch.stack(head, 1), norms, project(values).flatten(1).double()], 1)


def _numbers_of_one(values: torch.Tensor) -> torch.Tensor | None:
    """Return the numbers of one tensor, or ``None`` where they need care.

    The same as for many, in a third of the operations: on a CPU each costs its dispatch, which for
    a few hundred thousand values is more than to read them.
    """
    norms = torch.linalg.vector_norm(values[0], dim=1).double()
    total, square = values.sum().item(), torch.dot(norms, norms).item()
    low, high = (bound.item() for bound in torch.aminmax(values))
    largest, count = max(abs(low), abs(high)), values.numel()
    in_range = largest == 0 or _SMALLEST < largest < _LARGEST  # not so for NaN
    if not in_range or not (total / count) ** 2 * count <= 0.99 * square:
        return None
    digest = checksum(values)
    bits = (float(digest >> 32), float(digest & 0xFFFFFFFF))
    head = [low, high, total, 0.0, 0.0, math.nan, square, *bits]
    projections = project(values).flatten().double()
    return torch.cat([torch.tensor(head, dtype=torch.float64), norms, projections])[None]


def _with_marks(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Replace Inf and NaN by numbers as large as the largest, so that their places show."""
    largest = known.abs().amax((1, 2), keepdim=True)
    mark = torch.where(largest > 0, largest, 1.0)
    marked = torch.where(values.isinf(), mark * values.double().sign(), known)
    return torch.where(values.isnan(), 2 * mark, marked)


def _needs_care(
    values: torch.Tensor,
    norms: torch.Tensor,
    total: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
) -> bool:
    """Tell whether float32 is not enough: NaN, Inf, squares out of range, mean far above std."""
    largest = torch.maximum(low.abs(), high.abs())
    in_range = (largest > _SMALLEST) & (largest < _LARGEST) | (largest == 0)
    square, mean = norms.square().sum(1), total / values[0].numel()
    is_centred = mean.square() * values[0].numel() <= 0.99 * square
    return not bool((in_range & is_centred).all())


def _fits_float32(tensor: torch.Tensor) -> bool:
    """Tell whether the numbers of a float64 tensor survive as float32, as norms are kept."""
    largest = float(torch.where(tensor.isfinite(), tensor, 0.0).abs().max())
    return largest == 0 or 1e-30 < largest < 1e30


def _summary(item: Measured, numbers: np.ndarray | None, packed: Packed) -> Summary:
    if item.exact is not None:
        return _exact_summary(item)
    if numbers is None:
        return Summary(item.shape, item.dtype)
    low, high, total, nan, inf, variance, square, *bits = (float(x) for x in numbers[:STATISTICS])
    elements = math.prod(item.shape) * (2 if item.dtype.startswith("complex") else 1)
    finite = int(elements - nan - inf)
    digest = f"{int(bits[0]) & 0xFFFFFFFF:08x}{int(bits[1]):08x}"
    if not finite:
        return Summary(item.shape, item.dtype, nan=int(nan), inf=int(inf), digest=digest)
    mean, square = total / finite, square / finite
    return Summary(
        shape=item.shape,
        dtype=item.dtype,
        minimum=low,
        maximum=high,
        mean=mean,
        std=math.sqrt(max(square - mean * mean, 0.0) if math.isnan(variance) else variance),
        nan=int(nan),
        inf=int(inf),
        norms=packed[0],
        sketch=packed[1],
        digest=digest,
    )


def _exact_summary(item: Measured) -> Summary:
    """Summarise what is compared by its exact values: bounds and mean to read, and a digest."""
    assert item.exact is not None
    values = item.exact.cpu().contiguous().reshape(-1)
    digest = hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
    numbers, is_float = values.double(), item.exact.is_floating_point()
    finite = numbers[numbers.isfinite()]
    largest = float(finite.abs().max()) if len(finite) else 0.0
    scale = 2.0 ** (math.frexp(largest)[1] - 1) if largest else 1.0
    shares = finite / scale  # whose squares are in range
    return Summary(
        shape=item.shape,
        dtype=item.dtype,
        minimum=float(finite.min()) if len(finite) else None,
        maximum=float(finite.max()) if len(finite) else None,
        mean=float(shares.mean()) * scale if len(finite) else None,
        std=float(shares.std(correction=0)) * scale if is_float and len(finite) else None,
        nan=int(numbers.isnan().sum()),
        inf=int(numbers.isinf().sum()),
        digest=digest,
    )
