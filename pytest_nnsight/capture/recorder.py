"""Record the values of modules: summarise their tensors, and build a `Call` for each visit."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.steps import Steps
from pytest_nnsight.capture.values import (
    by_name,
    describe,
    logit_margin,
    map_tensors,
    tensor_digests,
    whole_numbers,
)
from pytest_nnsight.run import ROOT, Call, Leaf, Summary
from pytest_nnsight.summary.summarizer import Summarizer, version_of

Summaries = Mapping[int, Summary] | Sequence[Summary]
Leaves = list[tuple[str, int]]
"""The tensors of a value: the location of each in its containers, and the index of its summary."""


class ChangedInPlaceError(Exception):
    """Raised where a tensor was changed in place before it was measured."""


@dataclass(frozen=True, slots=True)
class Output:
    """The output of one call, with its tensors, which gradients are computed for later."""

    path: str
    visit: int
    structure: str
    tensors: tuple[tuple[str, torch.Tensor], ...]


@dataclass(slots=True)
class Recorder:
    """Receive the values of one run, one by one, in execution order.

    ``classes`` and ``parameters`` hold, by path, the class of each module and the names of the
    parameters of its ``forward``. ``captured`` and ``kept_paths`` are the modules whose values are
    recorded, and those whose tensors are kept as well.
    """

    classes: dict[str, str]
    parameters: dict[str, tuple[str, ...]]
    captured: set[str]
    captures_inputs: bool
    kept_paths: set[str]
    reached: Callable[[str], None] | None = None
    """Called with the path of each module whose value is received."""
    calls: list[_PendingCall] = field(default_factory=list)
    summarizer: Summarizer = field(default_factory=Summarizer)
    kept: dict[tuple[str, int], Any] = field(default_factory=dict)
    margins: list[torch.Tensor] = field(default_factory=list)
    entered: dict[str, torch.Tensor] | None = None
    """Ids, masks and positions of the model's first call, by parameter name."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digests of the other tensors of that call."""
    summaries: Mapping[int, Summary] | None = None
    """The summaries of a remote run, which are computed on the server."""
    server: Mapping[str, str] = field(default_factory=dict)
    """The environment of the server, for a remote run."""
    outputs: list[Output] | None = None
    """All outputs, where gradients are requested; else ``None``."""
    steps: Steps | None = None
    """The steps of a generation to record; ``None`` for all."""
    step: int = 0
    keeps_operation: Callable[[str], bool] | None = None
    """Tells by its path whether the tensors of an operation are kept."""
    input_steps: int | None = None
    """How many of the first steps record all inputs; later ones only those that are new."""
    _states: dict[str, _ModuleState] = field(default_factory=dict)
    _seen: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = field(default_factory=dict)

    def receive(self, path: str, slot: str, value: Any) -> bool:
        """Record one value while the model runs; ``slot`` is ``inputs`` or ``output``.

        Return whether they were inputs of a module that records no more of them in this run.
        """
        if self.reached is not None:
            self.reached(path or ROOT)
        state = self._states.get(path) or self._add_state(path)
        if slot == "inputs":
            if not self._records_inputs_of(state):
                return True
            record = self._record_inputs
        else:
            record = self._record_output
        if torch.is_grad_enabled():
            with torch.no_grad():
                record(state, value)
        else:
            record(state, value)
        return False

    def _records_inputs_of(self, state: _ModuleState) -> bool:
        """Tell whether to record the inputs of a module; once false, it stays so for the run."""
        if self.entered is None and state.path == ROOT:
            return True
        is_early = self.input_steps is None or self.step < self.input_steps
        return state.takes_inputs and (is_early or state.has_new_inputs)

    def _add_state(self, torch_path: str) -> _ModuleState:
        """Build the state of a module or operation when its first value is received."""
        path = torch_path or ROOT
        if path not in self.classes:
            self._add_operation(path)
        name = self.parameters[path][0] if self.parameters[path] else "0"
        is_captured, is_kept = path in self.captured, path in self.kept_paths
        takes_inputs = is_captured and self.captures_inputs
        structure, location = f"{{{name}=tensor}}", f"in.{name}"
        state = _ModuleState(path, is_captured, is_kept, takes_inputs, structure, location)
        self._states[torch_path] = state
        return state

    def _add_operation(self, path: str) -> None:
        """Capture an operation inside a module's forward, whose path is known only when it runs."""
        self.classes[path] = path.rpartition(nnsight_api.SOURCE)[2]
        self.parameters[path] = ()
        self.captured.add(path)
        if self.keeps_operation is not None and self.keeps_operation(path):
            self.kept_paths.add(path)

    def receive_gradient(
        self, prefix: str, output: Output, gradients: Sequence[torch.Tensor | None]
    ) -> None:
        """Record the gradients of one output as one more call, after the calls of the model."""
        pairs = zip(output.tensors, gradients, strict=True)
        found = [(at, gradient) for (at, _), gradient in pairs if gradient is not None]
        if not found:
            return
        path = prefix if output.path == ROOT else f"{prefix}.{output.path}"
        with torch.no_grad():
            leaves = [(at, self._index_of(gradient)) for at, gradient in found]
        self.classes[path] = self.classes[output.path]
        self.calls.append(_PendingCall(path, output.visit, output.structure, leaves, None))
        if output.path in self.kept_paths:
            self.kept[(path, output.visit)] = found[0][1]

    def _record_inputs(self, state: _ModuleState, value: Any) -> None:
        arguments, keywords = value
        if state.path == ROOT and self.entered is None:
            self._record_entered(by_name(arguments, keywords, self.parameters[ROOT]))
        if not state.takes_inputs or (self.steps is not None and self.step not in self.steps):
            return
        count_before = self.summarizer.count
        if len(arguments) == 1 and not keywords and type(arguments[0]) is torch.Tensor:
            leaves = [(state.input_at, self._index_of(arguments[0]))]  # as most modules are called
            state.inputs.append((state.input_structure, leaves))
        else:
            named = by_name(arguments, keywords, self.parameters[state.path])
            structure, tensors = describe(named, "in")
            leaves = [(at, self._index_of(tensor)) for at, tensor in tensors]
            state.inputs.append((structure, leaves))
        state.has_new_inputs |= self.summarizer.count > count_before

    def _record_entered(self, named: dict[str, Any]) -> None:
        self.entered = whole_numbers(named)
        others = {name: value for name, value in named.items() if name not in self.entered}
        self.digests = tensor_digests(others) if self.summarizer.has_numbers else {}

    def _record_output(self, state: _ModuleState, value: Any) -> None:
        step = self.step
        if state.path == ROOT:
            self.step += 1
            if (margin := logit_margin(value)) is not None:
                self.margins.append(margin)
        if not state.is_captured:
            return
        visit = state.visits
        state.visits += 1
        if self.steps is not None and step not in self.steps:
            return
        if type(value) is torch.Tensor and self.outputs is None:
            structure, leaves = "tensor", [("out", self._index_of(value))]
        else:
            structure, tensors = describe(value)
            if self.outputs is not None:
                self.outputs.append(Output(state.path, visit, structure, tuple(tensors)))
            leaves = [(at, self._index_of(tensor)) for at, tensor in tensors]
        self._add_call(state, visit, structure, leaves, step)
        if state.is_kept:
            self.kept[(state.path, visit)] = map_tensors(value, lambda t: t.detach().clone())

    def _add_call(
        self, state: _ModuleState, visit: int, structure: str, leaves: Leaves, step: int = 0
    ) -> None:
        inputs: str | None = None
        if state.inputs:
            inputs, input_leaves = state.inputs.pop()
            leaves = input_leaves + leaves
        self.calls.append(_PendingCall(state.path, visit, structure, leaves, inputs, step))

    def replay(
        self, events: Iterable[tuple[str, str, str, Leaves]], summaries: Mapping[int, Summary]
    ) -> None:
        """Add the calls of a remote run; an event is a path, a slot, a structure and leaves."""
        self.summaries = summaries
        for path, slot, structure, leaves in events:
            state = self._states.get(path) or self._add_state(path)
            if slot == "inputs":
                state.inputs.append((structure, leaves))
            else:
                self._add_call(state, state.visits, structure, leaves)
                state.visits += 1

    def _index_of(self, tensor: torch.Tensor) -> int:
        """Return the index of a tensor's summary; the same one while the tensor is not changed.

        A block's output is often the very tensor of its last module, and the input of the next one.
        """
        version, seen = version_of(tensor), self._seen.get(id(tensor))
        if seen is not None and seen[0]() is tensor and seen[1] == version >= 0:
            return seen[2]
        index = self.summarizer.add(tensor, version)
        self._seen[id(tensor)] = (weakref.ref(tensor), version, index)
        return index

    def finish(self, steps: int | None = None) -> tuple[Call, ...]:
        """Measure what is left, and return the calls in execution order.

        Only those of the first ``steps``, for a prompt of a batch that ended before the others.
        Raise `ChangedInPlaceError` where a tensor was changed before it was measured.
        """
        summaries = self.summarizer.finish() if self.summaries is None else self.summaries
        if self.summarizer.was_overwritten:
            raise ChangedInPlaceError
        calls = [call for call in self.calls if steps is None or call.step < steps]
        return tuple([call.close(self.classes, summaries) for call in calls])


@dataclass(slots=True)
class _ModuleState:
    """The recorder's state of one module or operation.

    ``input_structure`` and ``input_at`` describe its input where that is a single tensor.
    """

    path: str
    is_captured: bool
    is_kept: bool
    takes_inputs: bool
    input_structure: str
    input_at: str
    visits: int = 0
    has_new_inputs: bool = False
    """Whether one of its inputs was neither an input nor an output of an earlier module."""
    inputs: list[tuple[str, Leaves]] = field(default_factory=list)
    """Structure and tensors of each call that has not returned."""


class _PendingCall(NamedTuple):
    """A call whose tensors are not measured yet; a named tuple, because a run has very many."""

    path: str
    visit: int
    output: str
    leaves: Leaves
    inputs: str | None
    step: int = 0

    def close(self, classes: Mapping[str, str], summaries: Summaries) -> Call:
        leaves = tuple([Leaf(at, summaries[index]) for at, index in self.leaves])
        return Call(self.path, self.visit, classes[self.path], self.output, leaves, self.inputs)
