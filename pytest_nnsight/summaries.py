"""Tensors, one by one -> summaries, in as few operations as can be.

On a CPU an operation on a small tensor costs its dispatch rather than its arithmetic: small tensors
are copied as they come, those of one shape beside each other, and measured together. A large one is
measured as it comes, while it is in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch

from pytest_nnsight.measurement import Gauge, measurable, measured_numbers, tokens_of
from pytest_nnsight.run import BUCKETS, Summary
from pytest_nnsight.sketch import Block, exact_summary, summarize_blocks

_STACK_BYTES = 2 * 1024 * 1024  # which stay in the cache while they are measured
_LARGE = 256 * 1024  # bytes of a tensor that is measured as it comes, on a CPU
_MOST_ROWS = 256
_MOST_HELD = 64 * 1024 * 1024  # bytes of all that waits to be measured


@dataclass(slots=True)
class Summaries:
    """Takes tensors one by one, without waiting for their device; gives a summary of each.

    Without numbers it keeps what a tensor is: its shape and dtype.
    """

    has_numbers: bool = True
    _count: int = 0
    _stacks: dict[tuple[object, ...], _Stack] = field(default_factory=dict)
    _plain: dict[torch.Size, _Stack | _Gauged] = field(default_factory=dict)
    _blocks: list[Block] = field(default_factory=list)
    _exact: dict[int, tuple[tuple[int, ...], str, torch.Tensor]] = field(default_factory=dict)
    _bare: dict[int, Summary] = field(default_factory=dict)
    _held: int = 0

    def add(self, tensor: torch.Tensor) -> int:
        """Take a tensor as it is now; return the place of its summary."""
        if torch.is_grad_enabled():
            with torch.no_grad():
                return self.add(tensor)
        place = self._count
        self._count += 1
        if tensor.dtype is torch.float32 and tensor.is_cpu and self.has_numbers:
            known = self._plain.get(tensor.shape) or self._begin(tensor)
            if known is not None and known.add(place, tensor):
                return place
        self._measure(place, tensor)
        return place

    def finish(self) -> list[Summary]:
        """Measure what waits for it, and return the summary of each tensor."""
        self._measure_stacks()
        blocks = [taken.block() for taken in self._plain.values() if isinstance(taken, _Gauged)]
        summaries = summarize_blocks([*self._blocks, *blocks]) | self._bare
        summaries |= {place: exact_summary(*exact) for place, exact in self._exact.items()}
        return [summaries[place] for place in range(self._count)]

    def _begin(self, tensor: torch.Tensor) -> _Stack | _Gauged | None:
        """Return what takes plain tensors of a shape, where that goes without a view of them."""
        if tensor.layout is not torch.strided or not 0 < tensor.ndim <= 3 or not tensor.numel():
            return None
        values = tokens_of(tensor)
        if tensor.nbytes > _LARGE and len(values) >= BUCKETS:
            known: _Stack | _Gauged = _Gauged(tuple(tensor.shape), Gauge(*values.shape))
        elif tensor.nbytes <= _STACK_BYTES // 2:
            known = self._stack(tensor, tensor.shape, values)
        else:
            return None
        self._plain[tensor.shape] = known
        return known

    def _measure(self, place: int, tensor: torch.Tensor) -> None:
        shape, dtype = tuple(tensor.shape), _name(tensor.dtype)
        values, exact = measurable(tensor) if self.has_numbers else (None, None)
        if exact is not None:
            self._exact[place] = (shape, dtype, exact.clone())
        elif values is None:
            self._bare[place] = Summary(shape, dtype)
        elif values.nbytes > _STACK_BYTES // 2:
            numbers = measured_numbers(values[None])
            self._blocks.append(Block(shape, dtype, len(values), [place], numbers))
        else:
            self._stack(tensor, values.shape, values).add(place, values)

    def _stack(self, tensor: torch.Tensor, form: torch.Size, values: torch.Tensor) -> _Stack:
        key = (tensor.shape, tensor.dtype, form, values.dtype, values.device)
        stack = self._stacks.get(key)
        if stack is None:
            shape, dtype = tuple(tensor.shape), _name(tensor.dtype)
            stack = _Stack(shape, dtype, form, values, self._blocks, self._hold)
            self._stacks[key] = stack
        return stack

    def _hold(self, more: int) -> None:
        """Allow for so many bytes more."""
        if self._held + more > _MOST_HELD:
            self._measure_stacks()
        self._held += more

    def _measure_stacks(self) -> None:
        """Measure all that waits, and give its memory back."""
        for stack in self._stacks.values():
            stack.empty()
        self._held = 0


class _Stack:
    """Tensors of one shape that wait to be measured, copied beside each other.

    It has room for twice as many each time, as long as they fit the cache.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: str,
        form: torch.Size,
        like: torch.Tensor,
        blocks: list[Block],
        hold: Callable[[int], None],
    ) -> None:
        self.shape, self.dtype, self.form = shape, dtype, form
        self.blocks, self.hold = blocks, hold
        self.like = like.new_empty(0), like.shape, like.nbytes
        self.rows: Sequence[torch.Tensor] = ()
        self.values: torch.Tensor | None = None
        self.places: list[int] = []

    def add(self, place: int, tensor: torch.Tensor) -> bool:
        """Copy a tensor."""
        if len(self.places) == len(self.rows):
            self.measure()
            self._make_room()
        self.rows[len(self.places)].copy_(tensor)
        self.places.append(place)
        return True

    def measure(self) -> None:
        """Measure all that was copied."""
        if self.values is not None and self.places:
            numbers = measured_numbers(self.values[: len(self.places)])
            tokens = self.values.shape[1]
            self.blocks.append(Block(self.shape, self.dtype, tokens, self.places, numbers))
            self.places = []

    def empty(self) -> None:
        """Measure all that was copied, and hold nothing."""
        self.measure()
        self.rows, self.values = (), None

    def _make_room(self) -> None:
        empty, shape, nbytes = self.like
        count = min(max(16, 2 * len(self.rows)), _MOST_ROWS, _STACK_BYTES // nbytes)
        if count > len(self.rows):
            self.hold((count - len(self.rows)) * nbytes)
            with torch.inference_mode(False):  # else it could not be written to outside of it
                self.values = empty.new_empty((count, *shape))
            self.rows = self.values.view(count, *self.form).unbind()


class _Gauged:
    """Large tensors of one shape, each measured as it comes."""

    def __init__(self, shape: tuple[int, ...], gauge: Gauge) -> None:
        self.shape, self.gauge = shape, gauge
        self.places: list[int] = []

    def add(self, place: int, tensor: torch.Tensor) -> bool:
        """Measure a tensor; tell whether that was possible in float32."""
        if not tensor.is_contiguous() or not self.gauge.measure(tokens_of(tensor)):
            return False
        self.places.append(place)
        return True

    def block(self) -> Block:
        """Return the numbers of all."""
        numbers = torch.from_numpy(self.gauge.numbers())
        return Block(self.shape, "float32", self.gauge.tokens, self.places, numbers)


def summarize(tensors: Iterable[torch.Tensor]) -> list[Summary]:
    """Return the summary of each tensor."""
    summaries = Summaries()
    for tensor in tensors:
        summaries.add(tensor)
    return summaries.finish()


@cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
