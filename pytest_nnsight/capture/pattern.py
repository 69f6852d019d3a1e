"""A step of a generation by which those behind it are recognised, and taken as a whole.

A step goes through the modules in the same order as the one before, and hands over hundreds of
values. To look each of them up as it arrives costs more than to measure it: behind a matrix product
of the model neither the code nor the records are in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, islice, repeat
from typing import Any, NamedTuple

import torch

from pytest_nnsight.capture.form import ARGUMENT, TENSOR, Form, is_fixed
from pytest_nnsight.capture.values import described
from pytest_nnsight.run import ROOT, Call, Leaf, Summary
from pytest_nnsight.summaries import version_of

MOST_WAITING = 8 * 1024 * 1024
"""Bytes of a step whose tensors wait for its end."""

Arrival = tuple[str, str, Any]
"""A value as nnsight hands it over: the path of torch, ``inputs`` or ``output``, and itself."""


class Entry(NamedTuple):
    """What is known of one arrival.

    ``structure`` is ``None`` where it is not recorded; ``names`` are those of the parameters,
    ``ats`` the places of its tensors. ``form`` tells quickly whether a value has that structure; it
    is ``None`` for what is rare.
    """

    path: str
    slot: str
    structure: str | None = None
    names: tuple[str, ...] = ()
    ats: tuple[str, ...] = ()
    form: Form | None = None

    def collect(self, value: Any, into: list[torch.Tensor]) -> bool:
        """Tell whether a value has the structure of this one; if so, add its tensors."""
        if self.structure is None:
            return True
        if self.form is not None:
            return self.form.collect(value, into)
        structure, tensors = described(self.slot, value, self.names)
        if structure != self.structure or tuple([at for at, _ in tensors]) != self.ats:
            return False
        into += [tensor for _, tensor in tensors]
        return True

    @property
    def is_one(self) -> bool:
        """Whether its value is a tensor, or a call with one: `Arrived` knows these."""
        return self.form is TENSOR or (self.form is ARGUMENT and self.slot == "inputs")


@dataclass(slots=True)
class Arrived:
    """What has arrived of a step, put aside until its end.

    Nearly every value is a tensor, or a call with one, which is looked at while it is in the cache:
    ``tensors`` are those. ``others`` are all other values, each behind how many arrivals.
    """

    paths: list[str] = field(default_factory=list)
    slots: list[str] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    others: list[tuple[int, Any]] = field(default_factory=list)

    def add(self, path: str, slot: str, value: Any) -> None:
        """Put one value aside."""
        one = value
        if slot == "inputs":
            arguments, keywords = value
            one = arguments[0] if len(arguments) == 1 and not keywords else None
        if type(one) is torch.Tensor:
            self.tensors.append(one)
        else:
            self.others.append((len(self.paths), value))
        self.paths.append(path)
        self.slots.append(slot)

    def __iter__(self) -> Iterator[Arrival]:
        """Yield what has arrived, as it was."""
        tensors, others = iter(self.tensors), dict(self.others)
        for at, (path, slot) in enumerate(zip(self.paths, self.slots, strict=True)):
            if at in others:
                yield path, slot, others[at]
            else:
                yield path, slot, ((next(tensors),), {}) if slot == "inputs" else next(tensors)


@dataclass(slots=True)
class Lesson:
    """What is noted of a step while it is taken value by value."""

    entries: list[Entry] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    """Bytes of its tensors, by identity."""
    are_new: bool = True
    """Whether no tensor was changed before it arrived, as if it had been changed behind that."""
    open: list[tuple[Entry, Any, list[torch.Tensor]]] = field(default_factory=list)
    """The values with parts that may be exchanged, and their tensors."""

    def note(self, arrival: Arrival, names: tuple[str, ...] | None) -> None:
        """Note one arrival; without names of parameters it is not recorded."""
        path, slot, value = arrival
        if names is None:
            self.entries.append(Entry(path, slot, form=Form.of(value)))
            return
        structure, tensors = described(slot, value, names)
        ats = tuple([at for at, _ in tensors])
        entry = Entry(path, slot, structure, names, ats, Form.of(value))
        self.entries.append(entry)
        parts = (*value[0], *value[1].values()) if slot == "inputs" else (value,)
        if not all(map(is_fixed, parts)):
            self.open.append((entry, value, [tensor for _, tensor in tensors]))
        for _, tensor in tensors:
            self.sizes[id(tensor)] = tensor.nbytes
            self.are_new &= tensor.is_cpu and version_of(tensor) == 0

    @property
    def can_follow(self) -> bool:
        """Whether its values could as well be looked at in its end."""
        for entry, value, tensors in self.open:
            now: list[torch.Tensor] = []
            if not entry.collect(value, now) or [*map(id, now)] != [*map(id, tensors)]:
                return False
        return self.are_new and sum(self.sizes.values()) <= MOST_WAITING


class Pattern:
    """A step: its arrivals, and the calls they became, column by column.

    ``paths`` of the calls are torch's. ``order`` are the places of their tensors among those that
    `tensors_of` returns.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.came_from = [entry.path for entry in entries]
        self.slots = [entry.slot for entry in entries]
        others = [at for at, entry in enumerate(entries) if not entry.is_one]
        self.others = [(at, entries[at]) for at in others]
        ones = [entry for entry in entries if entry.is_one]
        self.are_recorded = [entry.structure is not None for entry in ones]
        self.paths: list[str] = []
        self.outputs: list[str] = []
        self.inputs: list[str | None] = []
        self.tensors: list[int] = []
        self.order: list[int] = []
        waiting: dict[str, list[tuple[str | None, range]]] = {}
        places = _places(entries)
        for (path, slot, structure, *_), own in zip(entries, places, strict=True):
            if structure is None:
                continue
            if slot == "inputs":
                waiting.setdefault(path, []).append((structure, own))
                continue
            inputs, entered = waiting[path].pop() if waiting.get(path) else (None, range(0))
            self.paths.append(path)
            self.outputs.append(structure)
            self.inputs.append(inputs)
            self.tensors.append(len(entered) + len(own))
            self.order += [*entered, *own]
        names = dict(zip(chain(*places), chain(*(entry.ats for entry in entries)), strict=True))
        self.ats = [names[place] for place in self.order]

    def tensors_of(self, arrived: Arrived) -> list[torch.Tensor] | None:
        """Return the tensors of a step; ``None`` where it is another one.

        First those of values that are one, or a call with one, then those of all others.
        """
        if arrived.paths != self.came_from or arrived.slots != self.slots:
            return None
        if [at for at, _ in arrived.others] != [at for at, _ in self.others]:
            return None
        found = [*compress(arrived.tensors, self.are_recorded)]
        for (_, value), (_, entry) in zip(arrived.others, self.others, strict=True):
            if not entry.collect(value, found):
                return None
        return found


def _places(entries: Sequence[Entry]) -> list[range]:
    """Return the places of each value's tensors among those of `Pattern.tensors_of`."""
    places, end = [range(0)] * len(entries), 0
    for at in sorted(range(len(entries)), key=lambda at: not entries[at].is_one):
        start, end = end, end + len(entries[at].ats)
        places[at] = range(start, end)
    return places


class Followed(NamedTuple):
    """A step that was as the pattern: the visits of its calls, the summaries of its tensors."""

    pattern: Pattern
    step: int
    visits: list[int]
    places: list[int]

    def close(self, classes: Mapping[str, str], summaries: Sequence[Summary]) -> Iterator[Call]:
        """Yield the calls; they and their tensors are made without a function of Python's each."""
        own = self.pattern
        of_leaves = map(summaries.__getitem__, map(self.places.__getitem__, own.order))
        leaves = map(tuple.__new__, repeat(Leaf), zip(own.ats, of_leaves, strict=True))
        of_calls = [tuple(islice(leaves, count)) for count in own.tensors]
        paths = [path or ROOT for path in own.paths]
        kinds = [classes[path] for path in paths]
        columns = (paths, self.visits, kinds, own.outputs, of_calls, own.inputs)
        return map(tuple.__new__, repeat(Call), zip(*columns, strict=True))
