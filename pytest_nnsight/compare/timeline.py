"""Calls -> their values in order of time, each with the module that made it and from what.

A golden lists calls in the order in which they end. What enters a module is seen before its
children run, so values have another order: inputs of an outer module, its children, its output. A
tensor that is seen again, such as an output that enters the next module, is one value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_nnsight.compare.pairing import is_input
from pytest_nnsight.run import ROOT, Call, Leaf, token_count

LeafKey = tuple[int, str]
"""The location of a tensor in a run: the index of its call, and where it is inside the call."""
Sides = tuple[list[Leaf], list[Leaf]]
"""The inputs and the outputs of a call."""


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
    keys: tuple[LeafKey, ...] = ()

    @property
    def key(self) -> LeafKey:
        """The location at which it is first seen."""
        return self.position, self.leaf.at

    @property
    def tokens(self) -> int:
        """The number of its tokens."""
        return token_count(self.leaf.summary.shape)

    @property
    def is_model_input(self) -> bool:
        """Whether it is an input of the model itself."""
        return self.module == ROOT and self.call.path == ROOT and is_input(self.leaf)


def timeline(calls: Sequence[Call], partners: Mapping[LeafKey, int] | None = None) -> list[Value]:
    """Return the values of ``calls`` in order of time, each tensor once.

    ``partners`` identifies the tensor of the other run at the same location. One tensor here that
    is two tensors there counts as two values: the other run has changed it in between.
    """
    sides = [_sides(call) for call in calls]
    starts = _starts(calls, sides)
    parents = _parents(starts)
    events = [(start, 0, -index) for index, start in enumerate(starts)]
    events += [(index, 1, 0) for index in range(len(calls))]
    values: list[tuple[Call, Leaf, str, int, tuple[int, ...]]] = []
    index_of: dict[tuple[int, int | None], int] = {}
    keys: list[list[LeafKey]] = []
    entered: dict[int, list[int]] = {}
    seen_at_start: dict[int, int] = {}
    for time, is_end, order in sorted(events):
        index = time if is_end else -order
        call = calls[index]
        if not is_end:
            seen_at_start[index] = len(values)
        maker = index if is_end else parents[index]
        for leaf in sides[index][is_end]:
            key = (index, leaf.at)
            identity = (id(leaf.summary), (partners or {}).get(key))
            if identity not in index_of:
                index_of[identity] = len(values)
                has_children = not is_end or starts[index] < index
                fed = _fed_by(maker, has_children, entered, seen_at_start, len(values))
                module = ROOT if maker is None else calls[maker].path
                values.append((call, leaf, module, index, fed))
                keys.append([])
            keys[index_of[identity]].append(key)
            if not is_end:
                entered.setdefault(index, []).append(index_of[identity])
    return [Value(*value, tuple(seen)) for value, seen in zip(values, keys, strict=True)]


def _sides(call: Call) -> Sides:
    inputs = [leaf for leaf in call.leaves if is_input(leaf)]
    return inputs, [leaf for leaf in call.leaves if not is_input(leaf)]


def _starts(calls: Sequence[Call], sides: Sequence[Sides]) -> list[int]:
    """Return for each call the index of the first call inside it, or its own index if none."""
    starts: list[int] = []
    for index, call in enumerate(calls):
        start = index
        inputs = {id(leaf.summary) for leaf in sides[index][0]}
        while start > 0 and _is_inside(calls[start - 1].path, call.path):
            if inputs & _made_by(sides[start - 1]):
                break  # the input was made before this call, as by the encoder of a seq2seq model
            start = starts[start - 1]
        starts.append(start)
    return starts


def _made_by(sides: Sides) -> set[int]:
    """Return the outputs of a call that are not its inputs."""
    inputs, outputs = ({id(leaf.summary) for leaf in side} for side in sides)
    return outputs - inputs


def _is_inside(path: str, outer: str) -> bool:
    return path.startswith(f"{outer}.") or (outer == ROOT and path != ROOT)


def _parents(starts: Sequence[int]) -> list[int | None]:
    """Return for each call the index of the call that it ran inside."""
    parents: list[int | None] = [None] * len(starts)
    without_parent: list[int] = []
    for index, start in enumerate(starts):
        while without_parent and without_parent[-1] >= start:
            parents[without_parent.pop()] = index
        without_parent.append(index)
    return parents


def _fed_by(
    maker: int | None,
    has_children: bool,
    entered: dict[int, list[int]],
    seen_at_start: dict[int, int],
    count: int,
) -> tuple[int, ...]:
    """Return the values that a call can have made its next value from, of ``count`` so far."""
    if maker is None:
        return ()
    inputs = entered.get(maker, [])
    if has_children or not inputs:
        inside = range(seen_at_start.get(maker, 0), count)
        return tuple(sorted({*inputs, *inside})) or ((count - 1,) if count else ())
    return tuple(inputs)
