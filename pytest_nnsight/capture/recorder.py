"""Collects the values that nnsight hands over, summarises them, and makes calls of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.entries import digests_of
from pytest_nnsight.capture.places import Places
from pytest_nnsight.capture.steps import Steps
from pytest_nnsight.capture.values import by_name, describe, map_tensors, margin_of, whole_numbers
from pytest_nnsight.run import ROOT, Call, Leaf, Summary
from pytest_nnsight.summary.summarizer import Summarizer


class ChangedInPlaceError(Exception):
    """A tensor was changed while it waited to be measured."""


@dataclass(frozen=True, slots=True)
class Output:
    """What one call gave, with the tensors themselves."""

    path: str
    visit: int
    structure: str
    tensors: tuple[tuple[str, torch.Tensor], ...]


@dataclass(slots=True)
class Recorder:
    """Receives one value after another, in execution order.

    ``classes`` and ``parameters`` hold, by path, a module's class and what its ``forward`` takes by
    position.
    """

    classes: dict[str, str]
    parameters: dict[str, tuple[str, ...]]
    captured: set[str]
    captures_inputs: bool
    kept_paths: set[str]
    reached: Callable[[str], None] | None = None
    calls: list[_OpenCall] = field(default_factory=list)
    summaries: Summarizer = field(default_factory=Summarizer)
    places: Places = field(init=False)
    kept: dict[tuple[str, int], Any] = field(default_factory=dict)
    margins: list[torch.Tensor] = field(default_factory=list)
    entered: dict[str, torch.Tensor] | None = None
    digests: dict[str, str] = field(default_factory=dict)
    finished: tuple[Call, ...] | None = None
    """The calls, where they were made elsewhere, with what is known of that place."""
    surroundings: Mapping[str, str] = field(default_factory=dict)
    outputs: list[Output] | None = None
    """Where outputs are to be differentiated later, all of them."""
    steps: Steps | None = None
    """The steps of a generation that are recorded, where not all are."""
    step: int = 0
    keeps: Callable[[str], bool] | None = None
    """Tells of an operation whether its values are kept."""
    input_steps: int | None = None
    """How many of the first steps record all inputs; later ones only those that are new."""
    _known: dict[str, _Known] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Give the summaries their places."""
        self.places = Places(self.summaries)

    def receive(self, path: str, slot: str, value: Any) -> None:
        """Take one value; called while the model runs."""
        if self.reached is not None:
            self.reached(path or ROOT)
        known = self._known.get(path) or self._meet(path)
        if slot == "inputs":
            if self._takes_inputs_of(known):
                self._without_gradients(self._receive_inputs, known, value)
        else:
            self._without_gradients(self._receive_output, known, value)

    def _takes_inputs_of(self, known: _Known) -> bool:
        """Tell whether to look at what a module is called with now."""
        if self.entered is None and known.path == ROOT:
            return True
        is_early = self.input_steps is None or self.step < self.input_steps
        return known.takes_inputs and (is_early or known.has_new_inputs)

    def _without_gradients(
        self, take: Callable[[_Known, Any], None], known: _Known, value: Any
    ) -> None:
        if torch.is_grad_enabled():
            with torch.no_grad():
                take(known, value)
        else:
            take(known, value)

    def _meet(self, torch_path: str) -> _Known:
        """Look up what is to be done with the values of a module, at its first."""
        path = torch_path or ROOT
        if path not in self.classes:
            self._note_operation(path)
        name = self.parameters[path][0] if self.parameters[path] else "0"
        is_captured, is_kept = path in self.captured, path in self.kept_paths
        takes_inputs = is_captured and self.captures_inputs
        known = _Known(path, is_captured, is_kept, takes_inputs, f"{{{name}=tensor}}", f"in.{name}")
        self._known[torch_path] = known
        return known

    def _note_operation(self, path: str) -> None:
        """Capture an operation inside of a forward, which is known once it runs."""
        self.classes[path] = path.rpartition(nnsight_api.STEP_INTO)[2]
        self.parameters[path] = ()
        self.captured.add(path)
        if self.keeps is not None and self.keeps(path):
            self.kept_paths.add(path)

    @property
    def operations(self) -> list[str]:
        """The paths of the operations that ran."""
        return [path for path in self.captured if nnsight_api.STEP_INTO in path]

    def receive_gradient(
        self, prefix: str, output: Output, gradients: Sequence[torch.Tensor | None]
    ) -> None:
        """Take the gradients of one output, as a call of its own behind those of the model."""
        pairs = zip(output.tensors, gradients, strict=True)
        found = [(at, gradient) for (at, _), gradient in pairs if gradient is not None]
        if not found:
            return
        path = prefix if output.path == ROOT else f"{prefix}.{output.path}"
        with torch.no_grad():
            leaves = [(at, self.places.of(gradient)) for at, gradient in found]
        self.classes[path] = self.classes[output.path]
        self.calls.append(_OpenCall(path, output.visit, output.structure, leaves, None))
        if output.path in self.kept_paths:
            self.kept[(path, output.visit)] = found[0][1]

    def _receive_inputs(self, known: _Known, value: Any) -> None:
        arguments, keywords = value
        is_noted = known.takes_inputs and (self.steps is None or self.step in self.steps)
        if known.path == ROOT and self.entered is None:
            self._note_entered(by_name(arguments, keywords, self.parameters[ROOT]))
        if not is_noted:
            return
        known_tensors = self.summaries.count
        if len(arguments) == 1 and not keywords and type(arguments[0]) is torch.Tensor:
            leaves = [(known.at, self.places.of(arguments[0]))]  # all that most modules take
            known.inputs.append((known.only, leaves))
        else:
            named = by_name(arguments, keywords, self.parameters[known.path])
            structure, tensors = describe(named, "in")
            leaves = [(at, self.places.of(tensor)) for at, tensor in tensors]
            known.inputs.append((structure, leaves))
        known.has_new_inputs |= self.summaries.count > known_tensors

    def _note_entered(self, named: dict[str, Any]) -> None:
        self.entered = whole_numbers(named)
        others = {name: value for name, value in named.items() if name not in self.entered}
        self.digests = digests_of(others) if self.summaries.has_numbers else {}

    def _receive_output(self, known: _Known, value: Any) -> None:
        step = self.step
        if known.path == ROOT:
            self._note_step(value)
        if not known.is_captured:
            return
        visit = known.visits
        known.visits += 1
        if self.steps is not None and step not in self.steps:
            return
        if type(value) is torch.Tensor and self.outputs is None:
            structure, leaves = "tensor", [("out", self.places.of(value))]
        else:
            structure, tensors = describe(value)
            if self.outputs is not None:
                self.outputs.append(Output(known.path, visit, structure, tuple(tensors)))
            leaves = [(at, self.places.of(tensor)) for at, tensor in tensors]
        inputs: str | None = None
        if known.inputs:
            inputs, input_leaves = known.inputs.pop()
            leaves = input_leaves + leaves
        self.calls.append(_OpenCall(known.path, visit, structure, leaves, inputs, step))
        if known.is_kept:
            self.kept[(known.path, visit)] = map_tensors(value, lambda t: t.detach().clone())

    def _note_step(self, value: Any) -> None:
        self.step += 1
        if (margin := margin_of(value)) is not None:
            self.margins.append(margin)

    def finish(self, steps: int | None = None) -> tuple[Call, ...]:
        """Bring all numbers to the host at once and return the calls in execution order.

        Those of the first ``steps`` alone, where a row of a batch ended before the others.
        """
        if self.finished is not None:
            return self.finished
        summaries = self.summaries.finish()
        if self.summaries.has_lost:
            raise ChangedInPlaceError
        calls = [call for call in self.calls if steps is None or call.step < steps]
        return tuple([call.close(self.classes, summaries) for call in calls])


@dataclass(slots=True)
class _Known:
    """A module, or an operation, whose values arrive.

    ``only`` and ``at`` are structure and place of its input where it takes a single tensor.
    """

    path: str
    is_captured: bool
    is_kept: bool
    takes_inputs: bool
    only: str
    at: str
    visits: int = 0
    has_new_inputs: bool = False
    """Whether it was given a tensor that no module before it gave or was given."""
    inputs: list[tuple[str, list[tuple[str, int]]]] = field(default_factory=list)
    """Structure and tensors of each call that has not returned."""


class _OpenCall(NamedTuple):
    """A call whose tensors are still being measured; there are many, made while the model runs."""

    path: str
    visit: int
    output: str
    leaves: list[tuple[str, int]]
    inputs: str | None
    step: int = 0

    def close(self, classes: Mapping[str, str], summaries: Sequence[Summary]) -> Call:
        leaves = tuple([Leaf(at, summaries[index]) for at, index in self.leaves])
        return Call(self.path, self.visit, classes[self.path], self.output, leaves, self.inputs)
