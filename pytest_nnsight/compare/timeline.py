"""Calls -> their values in order of time, each with the module that made it and from what.

A golden lists calls in the order in which they end. What enters a module is seen before its
children run, so values have another order: inputs of an outer module, its children, its output. A
tensor that is seen again, such as an output that enters the next module, is one value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pytest_nnsight.compare.pairing import inputs_and_outputs, is_input
from pytest_nnsight.run import ROOT, Call, Leaf

LeafKey = tuple[int, str]
"""The location of a tensor in a run: the index of its call, and where it is inside the call."""


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor at the moment it is first seen, in ``call``, whose index is ``position``.

    ``module`` is the path of the module whose own code made it, `ROOT` for the model's own inputs.
    ``fed_by`` are the indices of the values it can have been made from: the inputs of a module
    without children, otherwise everything that the module has computed so far. ``keys`` are all
    locations at which the tensor is seen.
    """

    call: Call
    leaf: Leaf
    module: str
    position: int
    fed_by: tuple[int, ...]
    keys: list[LeafKey]

    @property
    def key(self) -> LeafKey:
        """The location at which it is first seen."""
        return self.position, self.leaf.at

    @property
    def is_model_input(self) -> bool:
        """Whether it is an input of the model itself."""
        return self.module == ROOT and self.call.path == ROOT and is_input(self.leaf)


class _OpenCall(NamedTuple):
    """A call that has begun: the indices of its inputs, and the number of values before it."""

    path: str
    has_children: bool
    first: int
    inputs: list[int]

    def feeds(self, count: int) -> tuple[int, ...]:
        """Return the values that it can have made its next value from, of ``count`` so far."""
        if self.inputs and not self.has_children:
            return tuple(self.inputs)
        inside = range(self.first, count)
        return tuple(sorted({*self.inputs, *inside})) or ((count - 1,) if count else ())


def timeline(calls: Sequence[Call], partners: Mapping[LeafKey, int] | None = None) -> list[Value]:
    """Return the values of ``calls`` in order of time, each tensor once.

    ``partners`` identifies the tensor of the other run at the same location. One tensor here that
    is two tensors there counts as two values: the other run has changed it in between.
    """
    values: list[Value] = []
    index_of: dict[tuple[int, int | None], int] = {}

    def see(position: int, leaves: Iterable[Leaf], maker: _OpenCall | None) -> list[int]:
        """Return the indices of tensors; those that are seen for the first time are new values."""
        found = []
        for leaf in leaves:
            key = (position, leaf.at)
            identity = (id(leaf.summary), (partners or {}).get(key))
            if identity not in index_of:
                index_of[identity] = len(values)
                fed_by = maker.feeds(len(values)) if maker else ()
                module = maker.path if maker else ROOT
                values.append(Value(calls[position], leaf, module, position, fed_by, []))
            found.append(index_of[identity])
            values[found[-1]].keys.append(key)
        return found

    sides = [inputs_and_outputs(call) for call in calls]
    starts = _starts(calls, sides)
    beginning = defaultdict(list)  # the calls that begin before the first call inside them ends
    for position, start in enumerate(starts):
        beginning[start].append(position)
    open_calls: list[_OpenCall] = []
    for end in range(len(calls)):
        for position in reversed(beginning[end]):
            first, maker = len(values), open_calls[-1] if open_calls else None
            inputs = see(position, sides[position][0], maker)
            has_children = starts[position] < position
            open_calls.append(_OpenCall(calls[position].path, has_children, first, inputs))
        see(end, sides[end][1], open_calls.pop())
    return values


def _starts(calls: Sequence[Call], sides: Sequence[tuple[list[Leaf], list[Leaf]]]) -> list[int]:
    """Return for each call the index of the first call inside it, or its own index if none."""
    entered, returned = ([{id(leaf.summary) for leaf in side[i]} for side in sides] for i in (0, 1))
    starts: list[int] = []
    for index, call in enumerate(calls):
        start = index
        while start > 0 and _is_inside(calls[start - 1].path, call.path):
            if entered[index] & (returned[start - 1] - entered[start - 1]):
                break  # the input was made before this call, as by the encoder of a seq2seq model
            start = starts[start - 1]
        starts.append(start)
    return starts


def _is_inside(path: str, outer: str) -> bool:
    return path.startswith(f"{outer}.") or (outer == ROOT and path != ROOT)
