"""A step of a generation by which those behind it are recognised, and taken as a whole.

A step goes through the modules in the same order as the one before, and hands over hundreds of
values. To look each of them up as it arrives costs more than to measure it: behind a matrix product
of the model neither the code nor the records are in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
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
        if self.form is not None:
            return self.form.collect(value, into)
        if self.structure is not None:
            structure, tensors = described(self.slot, value, self.names)
            if structure != self.structure or tuple([at for at, _ in tensors]) != self.ats:
                return False
            into += [tensor for _, tensor in tensors]
        return True


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
            self.entries.append(Entry(path, slot))
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
    arrived.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.came_from = tuple([entry.path for entry in entries])
        self.slots = tuple([entry.slot for entry in entries])
        self.entries = [(entry, entry.form) for entry in entries]
        self.paths: list[str] = []
        self.outputs: list[str] = []
        self.inputs: list[str | None] = []
        self.tensors: list[int] = []
        self.order: list[int] = []
        waiting: dict[str, list[tuple[str | None, range]]] = {}
        end = 0
        for path, slot, structure, _, ats, _ in entries:
            start, end = end, end + len(ats)
            if structure is None:
                continue
            if slot == "inputs":
                waiting.setdefault(path, []).append((structure, range(start, end)))
                continue
            inputs, entered = waiting[path].pop() if waiting.get(path) else (None, range(0))
            self.paths.append(path)
            self.outputs.append(structure)
            self.inputs.append(inputs)
            self.tensors.append(len(entered) + len(ats))
            self.order += [*entered, *range(start, end)]
        arrived = [at for entry in entries for at in entry.ats]
        self.ats = [arrived[place] for place in self.order]

    def tensors_of(self, arrived: Sequence[Arrival]) -> list[torch.Tensor] | None:
        """Return the tensors of a step in order of arrival, ``None`` where it is another one."""
        paths, slots, values = zip(*arrived, strict=True)
        if paths != self.came_from or slots != self.slots:
            return None
        found: list[torch.Tensor] = []
        for value, (entry, form) in zip(values, self.entries, strict=True):
            if form is TENSOR:  # here and below without a call: nearly all are one of these two
                if type(value) is not torch.Tensor:
                    return None
                found.append(value)
            elif form is ARGUMENT:
                arguments, keywords = value
                if keywords or len(arguments) != 1 or type(arguments[0]) is not torch.Tensor:
                    return None
                found.append(arguments[0])
            elif not entry.collect(value, found):
                return None
        return found


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
