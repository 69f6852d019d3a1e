"""Tensors, one by one -> summaries, in as few operations as can be.

On a CPU an operation on a small tensor costs its dispatch rather than its arithmetic, and behind a
matrix product of the model the first use of an operation costs more than the tensor: those of one
shape wait for each other and are measured together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import torch

from pytest_nnsight.run import BUCKETS, Summary
from pytest_nnsight.summary.records import Block, exact_summary, summarize_blocks
from pytest_nnsight.summary.statistics import Gauge, measurable, measured_numbers, tokens_of

_LARGE = 256 * 1024  # bytes of a tensor that is gauged where it lies, on a CPU
_LARGE_TOGETHER = 16 * 1024 * 1024  # bytes of one shape that are measured at once
_SMALL_TOGETHER = 4 * 1024 * 1024  # the same of small ones, which are copied for that
_MOST_TOGETHER = 1024
_MOST_HELD = 32 * 1024 * 1024  # bytes of all that waits to be measured


@dataclass(slots=True)
class Summaries:
    """Takes tensors one by one, without waiting for their device; gives a summary of each.

    Without numbers it keeps what a tensor is: its shape and dtype. Where it ``holds`` tensors, they
    wait themselves instead of a copy, and ``has_lost`` tells in the end whether one of them was
    changed in place meanwhile: its summary is then not of what was given.
    """

    has_numbers: bool = True
    holds: bool = False
    has_lost: bool = False
    count: int = 0
    _groups: dict[tuple[object, ...], _Group] = field(default_factory=dict)
    _plain: dict[torch.Size, _Group] = field(default_factory=dict)
    _blocks: list[Block] = field(default_factory=list)
    _exact: dict[int, tuple[tuple[int, ...], str, torch.Tensor]] = field(default_factory=dict)
    _bare: dict[int, Summary] = field(default_factory=dict)
    _held: int = 0

    def add(self, tensor: torch.Tensor, version: int = -1) -> int:
        """Take a tensor as it is now; return the place of its summary.

        With its `version_of` it may wait itself. Where there are gradients it belongs into
        ``torch.no_grad()``.
        """
        place = self.count
        self.count += 1
        if tensor.dtype is torch.float32 and tensor.is_cpu and self.has_numbers:
            group = self._plain.get(tensor.shape) or self._begin(tensor)
            if group is not None and (group.gauge is None or _is_plain(tensor)):
                self._wait(group, place, tensor, version)
                return place
        self._sort(place, tensor)
        return place

    def finish(self) -> list[Summary]:
        """Measure what waits for it, and return the summary of each tensor."""
        with torch.no_grad():
            self._empty_all()
        gauged = [group.gauged() for group in self._plain.values()]
        blocks, exact = [*self._blocks, *filter(None, gauged)], self._exact.values()
        host = iter(on_host([*(block.numbers for block in blocks), *(each[2] for each in exact)]))
        summaries = summarize_blocks([replace(block, numbers=next(host)) for block in blocks])
        for place, (shape, dtype, _) in self._exact.items():
            summaries[place] = exact_summary(shape, dtype, next(host))
        summaries |= self._bare
        return [summaries[place] for place in range(self.count)]

    def _begin(self, tensor: torch.Tensor) -> _Group | None:
        """Return what takes plain tensors of a shape, where that goes without a view of them."""
        if tensor.layout is not torch.strided or not 0 < tensor.ndim <= 3 or not tensor.numel():
            return None
        values = tokens_of(tensor)
        if tensor.nbytes > _LARGE and len(values) >= BUCKETS:
            group = _Group(tuple(tensor.shape), "float32", values, self._blocks, is_large=True)
        elif tensor.nbytes <= _SMALL_TOGETHER // 2:
            group = self._group(tensor, values)
        else:
            return None
        self._plain[tensor.shape] = group
        return group

    def _sort(self, place: int, tensor: torch.Tensor) -> None:
        """Take a tensor of any kind."""
        shape, dtype = tuple(tensor.shape), _name(tensor.dtype)
        values, exact = measurable(tensor) if self.has_numbers else (None, None)
        if exact is not None:
            self._exact[place] = (shape, dtype, exact.clone())
        elif values is None:
            self._bare[place] = Summary(shape, dtype)
        elif values.nbytes > _SMALL_TOGETHER // 2:
            numbers = measured_numbers(values[None])
            self._blocks.append(Block(shape, dtype, len(values), [place], numbers))
        else:
            self._wait(self._group(tensor, values), place, values, version_of(values))

    def _group(self, tensor: torch.Tensor, values: torch.Tensor) -> _Group:
        key = (tensor.shape, tensor.dtype, values.dtype, values.device)
        group = self._groups.get(key)
        if group is None:
            shape, dtype = tuple(tensor.shape), _name(tensor.dtype)
            group = self._groups[key] = _Group(shape, dtype, values, self._blocks)
        return group

    def _wait(self, group: _Group, place: int, tensor: torch.Tensor, version: int) -> None:
        """Let a tensor wait in its group, or a copy of it."""
        if group.most > 1 and not (self.holds and version >= 0 and _may_wait(tensor)):
            tensor, version = tensor.clone(), -1
        group.waiting.append((place, tensor, version))
        self._held += group.nbytes
        if group.gauge is not None and len(group.waiting) == group.most:
            self._empty(group)
        elif self._held > _MOST_HELD:
            self._empty_all()

    def _empty_all(self) -> None:
        for group in (*self._plain.values(), *self._groups.values()):
            self._empty(group)

    def _empty(self, group: _Group) -> None:
        """Measure what waits in a group."""
        if group.waiting:
            waiting, group.waiting = group.waiting, []
            self._held -= len(waiting) * group.nbytes
            places, tensors, versions = map(list, zip(*waiting, strict=True))
            now = [then if then < 0 else tensor._version for _, tensor, then in waiting]
            self.has_lost |= now != versions
            group.measure(places, tensors)


class _Group:
    """Tensors of one shape that wait to be measured together; large ones have a gauge."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: str,
        values: torch.Tensor,
        blocks: list[Block],
        is_large: bool = False,
    ) -> None:
        self.shape, self.dtype, self.form, self.blocks = shape, dtype, values.shape, blocks
        self.nbytes = values.nbytes
        together = _LARGE_TOGETHER if is_large else _SMALL_TOGETHER
        self.most = min(_MOST_TOGETHER, max(1, together // self.nbytes))
        self.gauge = Gauge(*values.shape) if is_large else None
        self.gauged_places: list[int] = []
        self.waiting: list[tuple[int, torch.Tensor, int]] = []
        """Place, tensor and version of each."""

    def measure(self, places: list[int], tensors: list[torch.Tensor]) -> None:
        """Measure tensors together."""
        if self.gauge is not None:
            tensors = [tensor.view(self.form) for tensor in tensors]
            odd = self.gauge.measure(tensors)
            gauged = {*range(len(places))} - {*odd}
            self.gauged_places += [places[index] for index in sorted(gauged)]
            places, tensors = [places[i] for i in odd], [tensors[i] for i in odd]
        for start in range(0, len(places), self.most):
            part = slice(start, start + self.most)
            numbers = measured_numbers(torch.stack(tensors[part]).view(-1, *self.form))
            self.blocks.append(Block(self.shape, self.dtype, self.form[0], places[part], numbers))

    def gauged(self) -> Block | None:
        """Return the numbers of all that were gauged."""
        if self.gauge is None:
            return None
        numbers = torch.from_numpy(self.gauge.numbers())
        return Block(self.shape, self.dtype, self.form[0], self.gauged_places, numbers)


def on_host(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the tensors on the host, brought over in one transfer a device."""
    found = list(tensors)
    for device in {tensor.device for tensor in tensors if not tensor.is_cpu}:
        places = [place for place, tensor in enumerate(tensors) if tensor.device == device]
        parts = as_one([tensors[place] for place in places])
        for place, part in zip(places, parts, strict=True):
            found[place] = part
    return found


def as_one(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Bring tensors of one device to the host as one."""
    flat = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    parts = torch.split(torch.cat(flat).cpu(), [len(each) for each in flat])
    return [
        part.clone().view(tensor.dtype).view(tensor.shape)  # a copy, for words of any width
        for part, tensor in zip(parts, tensors, strict=True)
    ]


def _is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor's values lie in memory as they are, one behind the other."""
    return tensor.is_contiguous() and not tensor.is_neg()


def version_of(tensor: torch.Tensor) -> int:
    """Return how often a tensor was changed; -1 in inference mode, where that is not counted."""
    return -1 if tensor.is_inference() else tensor._version


def _may_wait(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is in memory of its own: no small part of a far larger one.

    On an accelerator copies are cheap, and kernels of others may write where torch counts nothing.
    """
    if not tensor.is_cpu:
        return False
    return tensor._base is None or tensor.untyped_storage().nbytes() <= 2 * tensor.nbytes


def summarize(tensors: Iterable[torch.Tensor]) -> list[Summary]:
    """Return the summary of each tensor."""
    summaries = Summaries(holds=True)
    with torch.no_grad():
        for tensor in tensors:
            summaries.add(tensor, version_of(tensor))
    return summaries.finish()


@cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
