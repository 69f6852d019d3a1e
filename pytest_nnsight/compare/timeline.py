"""Calls -> their values in order of time, each with the module that made it and what fed it.

A golden lists calls as they end. What enters a module is seen before its children run, so the order
of values is another one: an outer module's inputs, then its children, then its output. A tensor
that is seen again, such as an output that enters the next module, is one value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_nnsight.compare.pairing import is_input
from pytest_nnsight.run import ROOT, Call, Leaf, token_count

LeafKey = tuple[int, str]
Sides = tuple[list[Leaf], list[Leaf]]


@dataclass(frozen=True, slots=True)
class Value:
    """One tensor at the moment it is first seen.

    ``where`` is the module whose own code made it, the outermost one for the model's own inputs;
    ``position`` is the index of ``call``. ``fed_by`` are the indices of the values that were there
    to make it from: the inputs of a module without children, else all that went through it so far.
    """

    call: Call
    leaf: Leaf
    where: str
    position: int
    fed_by: tuple[int, ...]
    places: tuple[LeafKey, ...] = ()

    @property
    def tokens(self) -> int:
        """The number of its tokens."""
        return token_count(self.leaf.summary.shape)

    @property
    def enters(self) -> bool:
        """Whether it is an input of the model itself."""
        return self.where == ROOT and self.call.path == ROOT and is_input(self.leaf)


def timeline(calls: Sequence[Call], partners: Mapping[LeafKey, int] | None = None) -> list[Value]:
    """Return the values of ``calls`` in order of time, each tensor once.

    ``partners`` identifies the tensor of another run at the same place. What is one tensor here and
    two there counts as two: between them the other run has changed it.
    """
    sides = [_sides(call) for call in calls]
    starts = _starts(calls, sides)
    parents = _parents(starts)
    events = [(start, 0, -index) for index, start in enumerate(starts)]
    events += [(index, 1, 0) for index in range(len(calls))]
    values: list[tuple[Call, Leaf, str, int, tuple[int, ...]]] = []
    known: dict[tuple[int, int | None], int] = {}
    places: list[list[LeafKey]] = []
    entered: dict[int, list[int]] = {}
    seen_at_start: dict[int, int] = {}
    for time, leaves_it, order in sorted(events):
        index = time if leaves_it else -order
        call = calls[index]
        if not leaves_it:
            seen_at_start[index] = len(values)
        maker = index if leaves_it else parents[index]
        for leaf in sides[index][leaves_it]:
            place = (index, leaf.at)
            key = (id(leaf.summary), (partners or {}).get(place))
            if key not in known:
                known[key] = len(values)
                has_children = not leaves_it or starts[index] < index
                fed = _fed_by(maker, has_children, entered, seen_at_start, len(values))
                where = ROOT if maker is None else calls[maker].path
                values.append((call, leaf, where, index, fed))
                places.append([])
            places[known[key]].append(place)
            if not leaves_it:
                entered.setdefault(index, []).append(known[key])
    return [Value(*v, tuple(p)) for v, p in zip(values, places, strict=True)]


def _sides(call: Call) -> Sides:
    """Return what enters a call, and what leaves it."""
    entering = [leaf for leaf in call.leaves if is_input(leaf)]
    return entering, [leaf for leaf in call.leaves if not is_input(leaf)]


def _starts(calls: Sequence[Call], sides: Sequence[Sides]) -> list[int]:
    """Return for each call the index of the first call that ran inside it, its own for none."""
    starts: list[int] = []
    for index, call in enumerate(calls):
        start = index
        entering = {id(leaf.summary) for leaf in sides[index][0]}
        while start > 0 and _is_inside(calls[start - 1].path, call.path):
            if entering & _made_by(sides[start - 1]):
                break  # what came in was made before, as by the encoder of a model that generates
            start = starts[start - 1]
        starts.append(start)
    return starts


def _made_by(sides: Sides) -> set[int]:
    """Return what leaves a call and did not enter it."""
    entered, left = ({id(leaf.summary) for leaf in side} for side in sides)
    return left - entered


def _is_inside(path: str, outer: str) -> bool:
    return path.startswith(f"{outer}.") or (outer == ROOT and path != ROOT)


def _parents(starts: Sequence[int]) -> list[int | None]:
    """Return for each call the index of the call that it ran inside."""
    parents: list[int | None] = [None] * len(starts)
    waiting: list[int] = []
    for index, start in enumerate(starts):
        while waiting and waiting[-1] >= start:
            parents[waiting.pop()] = index
        waiting.append(index)
    return parents


def _fed_by(
    maker: int | None,
    has_children: bool,
    entered: dict[int, list[int]],
    seen_at_start: dict[int, int],
    now: int,
) -> tuple[int, ...]:
    """Return what a module had at hand to make a value from."""
    if maker is None:
        return ()
    inputs = entered.get(maker, [])
    if has_children or not inputs:
        inside = range(seen_at_start.get(maker, 0), now)
        return tuple(sorted({*inputs, *inside})) or ((now - 1,) if now else ())
    return tuple(inputs)
