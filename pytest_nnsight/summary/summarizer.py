"""Summarise tensors: every tensor of a capture is passed to `Summarizer.add`.

- Floating-point tensors of one shape wait in a group, which `statistics.measure` measures at once:
  on a CPU the dispatch of an operation on a small tensor costs more than its arithmetic.
- Whole numbers, booleans, and float64 out of the range of float32 are compared exactly.
- Empty and meta tensors have only shape and dtype.

`Summarizer.finish` copies all numbers to the host, in one transfer for each device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat

import numpy as np
import torch

from pytest_nnsight.run import Summary, token_count
from pytest_nnsight.summary.packing import pack
from pytest_nnsight.summary.rows import pack_rows
from pytest_nnsight.summary.statistics import (
    STATISTICS,
    measurable,
    measure,
    row_numbers,
    tokens_of,
)

_MB = 1024 * 1024
_LARGE = _MB // 4  # bytes of a tensor that is measured where it is, not in a stack, on a CPU
_LARGE_TOGETHER = 16 * _MB  # bytes of large tensors of one shape that wait for each other
_SMALL_TOGETHER = 4 * _MB  # the same of small ones, which are copied into a stack
_MOST_TOGETHER = 1024
_MOST_HELD = 32 * _MB  # bytes of all tensors that wait


@dataclass(frozen=True, slots=True)
class Measured:
    """The numbers of tensors of one shape, and the indices of their summaries in a run."""

    shape: tuple[int, ...]
    dtype: str
    indices: Sequence[int]
    numbers: torch.Tensor


@dataclass(slots=True)
class Summarizer:
    """Summarise tensors that are added one by one, without waiting for their device.

    With ``holds_references`` a tensor is measured later without a copy; ``was_overwritten`` then
    tells whether one was changed in place before, so that its summary is wrong. Without
    ``has_numbers`` only shapes and dtypes are recorded.
    """

    has_numbers: bool = True
    holds_references: bool = False
    was_overwritten: bool = False
    count: int = 0
    _groups: dict[Hashable, _Group] = field(default_factory=dict)
    _measured: list[Measured] = field(default_factory=list)
    _exact: dict[int, tuple[tuple[int, ...], str, torch.Tensor]] = field(default_factory=dict)
    _bare: dict[int, Summary] = field(default_factory=dict)
    _rows: dict[int, torch.Tensor] = field(default_factory=dict)
    _held: int = 0

    def add(self, tensor: torch.Tensor, version: int = -1, is_mask: bool = False) -> int:
        """Add a tensor with its current values, and return the index of its summary.

        It is copied unless ``version`` is its `version_of`. Call it under ``torch.no_grad()``.
        """
        index = self.count
        self.count += 1
        if is_mask:
            self._add_rows(index, tensor, is_mask)
        if tensor.dtype is torch.float32 and tensor.is_cpu and tensor.layout is torch.strided:
            group = self._groups.get(tensor.shape) or self._new_plain_group(tensor)
            if group is not None:
                self._wait(group, index, tensor, version)
                return index
        self._add_other(index, tensor)
        return index

    def finish(self) -> list[Summary]:
        """Measure the waiting tensors, and return the summary of each tensor in order."""
        with torch.no_grad():
            self._measure(self._groups.values())
        numbers = [each.numbers for each in self._measured]
        exact = [each[2] for each in self._exact.values()]
        host = iter(on_host([*numbers, *exact, *self._rows.values()]))
        summaries = summaries_of([replace(each, numbers=next(host)) for each in self._measured])
        for index, (shape, dtype, _) in self._exact.items():
            summaries[index] = exact_summary(shape, dtype, next(host))
        summaries |= self._bare
        for index in self._rows:
            summaries[index] = summaries[index]._replace(rows=pack_rows(next(host).numpy()))
        return [summaries[index] for index in range(self.count)]

    def _new_plain_group(self, tensor: torch.Tensor) -> _Group | None:
        """Return a group for float32 tensors that are viewed as tokens only when measured."""
        if not self.has_numbers or not 0 < tensor.ndim <= 3 or not tensor.numel():
            return None
        group = _Group(tuple(tensor.shape), "float32", tokens_of(tensor))
        self._groups[tensor.shape] = group
        return group

    def _add_other(self, index: int, tensor: torch.Tensor) -> None:
        """Add a tensor of any dtype, layout and device."""
        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        values, exact = measurable(tensor) if self.has_numbers else (None, None)
        if exact is not None:
            self._exact[index] = (shape, dtype, exact.clone())
            if index not in self._rows:
                self._add_rows(index, exact, exact.dtype is torch.bool and exact.ndim == 4)
        elif values is None:
            self._bare[index] = Summary(shape, dtype)
        else:
            key = (shape, tensor.dtype, values.dtype, values.device)
            group = self._groups.setdefault(key, _Group(shape, dtype, values))
            self._wait(group, index, values, version_of(values))

    def _add_rows(self, index: int, tensor: torch.Tensor, is_mask: bool) -> None:
        """Add the numbers of the tokens of a mask or of integers."""
        rows = row_numbers(tensor, is_mask) if self.has_numbers else None
        if rows is not None:
            self._rows[index] = rows

    def _wait(self, group: _Group, index: int, tensor: torch.Tensor, version: int) -> None:
        """Put a tensor, or a copy of it, into its group."""
        if group.most > 1 and not (self.holds_references and version >= 0 and _owns_memory(tensor)):
            tensor, version = tensor.clone(), -1
        group.waiting.append((index, tensor, version))
        self._held += group.nbytes
        if group.is_large and len(group.waiting) == group.most:
            self._measure([group])
        elif self._held > _MOST_HELD:
            self._measure(self._groups.values())

    def _measure(self, groups: Iterable[_Group]) -> None:
        """Measure the waiting tensors of some groups."""
        for group in groups:
            waiting, group.waiting = group.waiting, []
            self._held -= len(waiting) * group.nbytes
            self.was_overwritten |= any(then >= 0 and then != t._version for _, t, then in waiting)
            for start in range(0, len(waiting), group.most):
                indices, tensors, _ = zip(*waiting[start : start + group.most], strict=True)
                numbers = measure(group.stacks(tensors))
                self._measured.append(Measured(group.shape, group.dtype, indices, numbers))


class _Group:
    """Tensors of one shape that wait to be measured together."""

    def __init__(self, shape: tuple[int, ...], dtype: str, values: torch.Tensor) -> None:
        self.shape, self.dtype, self.form, self.nbytes = shape, dtype, values.shape, values.nbytes
        self.is_large = self.nbytes > (_LARGE if values.is_cpu else _SMALL_TOGETHER // 2)
        is_held = self.is_large and values.is_cpu  # a large tensor of a device is measured at once
        most = (_LARGE_TOGETHER if is_held else _SMALL_TOGETHER) // self.nbytes
        self.most = min(_MOST_TOGETHER, max(1, most))
        self.waiting: list[tuple[int, torch.Tensor, int]] = []
        """Index, tensor and version of each; the version is -1 for a copy."""

    def stacks(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return stacks ``[tensors, tokens, width]``: one of small tensors, one of each large."""
        if self.is_large:
            return [each.resolve_neg().contiguous().view(1, *self.form) for each in tensors]
        return [torch.stack(list(tensors)).view(-1, *self.form)]


def summarize(tensors: Iterable[torch.Tensor]) -> list[Summary]:
    """Return the summary of each tensor."""
    summarizer = Summarizer(holds_references=True)
    with torch.no_grad():
        for tensor in tensors:
            summarizer.add(tensor, version_of(tensor))
    return summarizer.finish()


def version_of(tensor: torch.Tensor) -> int:
    """Return how often a tensor was changed in place; -1 in inference mode, without a count."""
    return -1 if tensor.is_inference() else tensor._version


def _owns_memory(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor may wait without a copy: it is not a small part of a far larger one.

    An accelerator copies fast, and kernels of other libraries do not count their changes there.
    """
    if not tensor.is_cpu:
        return False
    return tensor._base is None or tensor.untyped_storage().nbytes() <= 2 * tensor.nbytes


def on_host(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors on the host, after one transfer for each device."""
    found = list(tensors)
    for device in {tensor.device for tensor in tensors if not tensor.is_cpu}:
        at = [index for index, tensor in enumerate(tensors) if tensor.device == device]
        for index, part in zip(at, transfer([tensors[index] for index in at]), strict=True):
            found[index] = part
    return found


def transfer(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Copy tensors of one device to the host in one transfer."""
    flat = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    parts = torch.split(torch.cat(flat).cpu(), [len(each) for each in flat])
    return [
        part.clone().view(tensor.dtype).view(tensor.shape)  # the copy is aligned for any dtype
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def summaries_of(measured: Sequence[Measured]) -> dict[int, Summary]:
    """Return the summaries by index; the numbers are on the host."""
    by_tokens: dict[int, list[Measured]] = {}
    for each in measured:
        by_tokens.setdefault(token_count(each.shape), []).append(each)
    summaries: dict[int, Summary] = {}
    for tokens, alike in by_tokens.items():
        indices = [index for each in alike for index in each.indices]
        summaries |= zip(indices, _build(tokens, alike), strict=True)
    return summaries


def _build(tokens: int, measured: Sequence[Measured]) -> Iterator[Summary]:
    """Build the summaries of tensors with the same count of tokens.

    There is no Python call for each: a short generation has ten thousand.
    """
    elements = np.repeat(
        [math.prod(each.shape) << each.dtype.startswith("complex") for each in measured],
        [len(each.indices) for each in measured],
    )
    numbers = np.concatenate([each.numbers.numpy() for each in measured])
    low, high, total, nan, inf, variance, square, upper, lower = numbers[:, :STATISTICS].T
    finite = elements - nan - inf
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / finite
        spread = np.maximum(square / finite - mean * mean, 0.0)
        std = np.sqrt(np.where(np.isnan(variance), spread, variance))
    columns = [column.tolist() for column in (low, high, mean, std)]
    whole = [column.astype(np.int64).tolist() for column in (nan, inf)]
    packed = pack(numbers[:, STATISTICS : STATISTICS + tokens], numbers[:, STATISTICS + tokens :])
    for index in np.flatnonzero(finite == 0).tolist():
        packed[index] = (b"", b"")
        for column in columns:
            column[index] = None
    kinds = [(each.shape, each.dtype) for each in measured for _ in each.indices]
    shapes, dtypes = zip(*kinds, strict=True)
    norms, sketches = zip(*packed, strict=True)
    words = upper.astype(np.uint64) << np.uint64(32) | lower.astype(np.uint64)
    digits = words.astype(">u8").tobytes().hex()
    digests = [digits[start : start + 16] for start in range(0, len(digits), 16)]
    rows = zip(shapes, dtypes, *columns, *whole, norms, sketches, digests, repeat(0.0), repeat(b""))
    return map(tuple.__new__, repeat(Summary), rows)


def exact_summary(shape: tuple[int, ...], dtype: str, exact: torch.Tensor) -> Summary:
    """Summarise a tensor that is compared exactly: a digest, and bounds and mean for reports."""
    data = exact.contiguous().reshape(-1).view(torch.uint8).numpy()
    digest = hashlib.sha256(data.tobytes()).hexdigest()[:16]
    numbers = exact.double()
    nan, inf = int(numbers.isnan().sum()), int(numbers.isinf().sum())
    finite = numbers[numbers.isfinite()]
    if not len(finite):
        return Summary(shape, dtype, nan=nan, inf=inf, digest=digest)
    scale = 2.0 ** (math.frexp(float(finite.abs().max()))[1] - 1)
    shares = finite / scale  # their squares are in range
    std = float(shares.std(correction=0)) * scale if exact.is_floating_point() else None
    low, high, mean = float(finite.min()), float(finite.max()), float(shares.mean()) * scale
    return Summary(shape, dtype, low, high, mean, std, nan, inf, digest=digest)
