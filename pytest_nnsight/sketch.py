"""Tensors -> summaries, the work put off until there is enough of it.

On a CPU an operation on a small tensor costs its dispatch rather than its arithmetic, and one on a
large tensor finds neither its code nor its tables in the cache, after a matrix product of the model
has gone through it. So tensors are copied as they come, those of one shape beside each other, and
measured together.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch

from pytest_nnsight.measurement import (
    STATISTICS,
    Gauge,
    Large,
    measurable,
    measured_numbers,
    tokens_of,
)
from pytest_nnsight.packing import Packed, pack
from pytest_nnsight.run import BUCKETS, Summary

_STACK_BYTES = 2 * 1024 * 1024  # which stay in the cache while they are measured
_LARGE = 256 * 1024  # bytes of a tensor that is measured as it comes, on a CPU
_MOST_ROWS = 256
_MOST_HELD = 64 * 1024 * 1024  # bytes of all that waits to be measured


@dataclass(slots=True)
class Measured:
    """What is known of one tensor, still on its device.

    Its ``numbers``, as of `measured_numbers` or of a `Gauge`, or an ``exact`` copy, or neither.
    """

    shape: tuple[int, ...]
    dtype: str
    tokens: int = 0
    numbers: torch.Tensor | None = None
    large: Large | None = None
    exact: torch.Tensor | None = None


@dataclass(slots=True)
class Summaries:
    """Takes tensors one by one, without waiting for their device; gives a summary of each.

    Without numbers it keeps what a tensor is: its shape and dtype.
    """

    has_numbers: bool = True
    _measured: list[Measured] = field(default_factory=list)
    _stacks: dict[tuple[torch.Size, torch.dtype, torch.device], _Stack] = field(
        default_factory=dict
    )
    _gauges: dict[torch.Size, Gauge] = field(default_factory=dict)
    _held: int = 0

    def add(self, tensor: torch.Tensor) -> int:
        """Take a tensor as it is now; return the number of its summary."""
        item = Measured(tuple(tensor.shape), _name(tensor.dtype))
        self._measured.append(item)
        if self.has_numbers and not self._is_gauged(item, tensor):
            values, exact = measurable(tensor)
            if values is not None:
                self._measure(item, values)
            elif exact is not None:
                item.exact = exact.clone()
        return len(self._measured) - 1

    def finish(self) -> list[Summary]:
        """Measure what waits for it, and return the summary of each tensor."""
        for stack in self._stacks.values():
            stack.measure()
        self._stacks.clear()
        return collect(self._measured)

    def _is_gauged(self, item: Measured, tensor: torch.Tensor) -> bool:
        """Measure a tensor that is large enough to be measured as it comes."""
        is_plain = tensor.dtype is torch.float32 and tensor.is_cpu and tensor.is_contiguous()
        if not is_plain or tensor.nbytes <= _LARGE:
            return False
        values = tokens_of(tensor)
        if len(values) < BUCKETS:  # and more numbers a token
            return False
        gauge = self._gauges.get(values.shape)
        if gauge is None:
            gauge = self._gauges[values.shape] = Gauge(*values.shape)
        item.large = gauge.measure(values)
        item.tokens = len(values)
        return item.large is not None

    def _measure(self, item: Measured, values: torch.Tensor) -> None:
        item.tokens = len(values)
        if values.nbytes > _STACK_BYTES // 2:
            item.numbers = measured_numbers(values[None])[0]
            return
        key = (values.shape, values.dtype, values.device)
        stack = self._stacks.get(key)
        if stack is None:
            stack = self._stacks[key] = _Stack()
        self._held += stack.add(item, values)
        if self._held > _MOST_HELD:
            for stack in self._stacks.values():
                stack.measure()
            self._stacks.clear()
            self._held = 0


@dataclass(slots=True)
class _Stack:
    """Tensors of one shape that wait to be measured, copied beside each other.

    It has room for twice as many each time, as long as they fit the cache.
    """

    rows: Sequence[torch.Tensor] = ()
    values: torch.Tensor | None = None
    items: list[Measured] = field(default_factory=list)

    def add(self, item: Measured, values: torch.Tensor) -> int:
        """Copy a tensor; return how many bytes more are held now."""
        more = 0
        if len(self.items) == len(self.rows):
            self.measure()
            more = self._make_room(values)
        self.rows[len(self.items)].copy_(values)
        self.items.append(item)
        return more

    def measure(self) -> None:
        """Measure all that was copied, and forget it."""
        if self.values is not None and self.items:
            numbers = measured_numbers(self.values[: len(self.items)]).unbind()
            for item, of_one in zip(self.items, numbers, strict=True):
                item.numbers = of_one
            self.items.clear()

    def _make_room(self, values: torch.Tensor) -> int:
        most = min(_MOST_ROWS, _STACK_BYTES // values.nbytes)
        had, count = len(self.rows), min(max(4, 2 * len(self.rows)), most)
        if count > had:
            with torch.inference_mode(False):  # else it could not be written to outside of it
                self.values = values.new_empty((count, *values.shape))
            self.rows = self.values.unbind()
        return (len(self.rows) - had) * values.nbytes


def summarize(tensors: Iterable[torch.Tensor]) -> list[Summary]:
    """Return the summary of each tensor."""
    summaries = Summaries()
    for tensor in tensors:
        summaries.add(tensor)
    return summaries.finish()


@cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def collect(measured: Sequence[Measured]) -> list[Summary]:
    """Bring the numbers of many tensors to the host, one transfer a device, as summaries."""
    host: dict[int, np.ndarray] = {}
    by_device: dict[torch.device, list[int]] = {}
    for index, item in enumerate(measured):
        if item.large is not None:
            host[index] = item.large.numbers()
        elif item.numbers is not None:
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


def _summary(item: Measured, numbers: np.ndarray | None, packed: Packed) -> Summary:
    if item.exact is not None:
        return _exact_summary(item)
    if numbers is None:
        return Summary(item.shape, item.dtype)
    low, high, total, nan, inf, variance, square, *bits = (float(x) for x in numbers[:STATISTICS])
    elements = math.prod(item.shape) * (2 if item.dtype.startswith("complex") else 1)
    finite = int(elements - nan - inf)
    digest = f"{int(bits[0]):08x}{int(bits[1]):08x}"
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
