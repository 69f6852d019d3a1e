"""Record the values of modules: summarise their tensors, and build a `Call` for each visit."""

from __future__ import annotations

import fnmatch
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.callbacks import GradientRequest
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

Leaves = list[tuple[str, int]]
"""The tensors of a value: the location of each in its containers, and the index of its summary."""
Tensors = list[tuple[str, torch.Tensor]]


class ChangedInPlaceError(Exception):
    """Raised where a tensor was changed in place before it was measured."""


@dataclass(slots=True)
class Recorder:
    """Receive the values of one run, one by one, in execution order.

    ``classes`` and ``parameters`` hold, by path, the class of each module and the names of the
    parameters of its ``forward``. ``captured`` and ``kept_paths`` are the modules whose values are
    recorded, and those whose tensors are kept as well; ``kept_operations`` are globs. All inputs
    are recorded in the first ``input_steps``, and later only those of modules with new ones.
    """

    classes: dict[str, str]
    parameters: dict[str, tuple[str, ...]]
    captured: set[str]
    input_steps: int
    kept_paths: set[str]
    kept_operations: Sequence[str] = ()
    reached: Callable[[str], None] | None = None
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
    outputs: list[tuple[_PendingCall, Tensors]] | None = None
    """All calls with the tensors of their outputs, where gradients are requested; else ``None``."""
    steps: Steps | None = None
    """The steps of a generation to record; ``None`` for all."""
    step: int = 0
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
            is_needed = self.step < self.input_steps or state.has_new_inputs
            is_first = self.entered is None and state.path == ROOT
            if not is_first and not (state.takes_inputs and is_needed):
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

    def _add_state(self, torch_path: str) -> _ModuleState:
        """Build the state of a module or operation when its first value is received."""
        path = torch_path or ROOT
        if path not in self.classes:  # an operation, whose path is known only when it runs
            self.classes[path] = path.rpartition(nnsight_api.SOURCE)[2]
            self.parameters[path] = ()
            self.captured.add(path)
            if any(fnmatch.fnmatchcase(path, glob) for glob in self.kept_operations):
                self.kept_paths.add(path)
        name = self.parameters[path][0] if self.parameters[path] else "0"
        is_captured, is_kept = path in self.captured, path in self.kept_paths
        takes_inputs = is_captured and self.input_steps > 0
        structure, location = f"{{{name}=tensor}}", f"in.{name}"
        state = _ModuleState(path, is_captured, is_kept, takes_inputs, structure, location)
        self._states[torch_path] = state
        return state

    def record_gradients(self, request: GradientRequest) -> None:
        """Add the gradients of each scalar as calls, from the last output to the first."""
        outputs = self.outputs or []
        tensors = [tensor for _, pairs in outputs for _, tensor in pairs]
        for prefix, gradients in request.differentiate(tensors):
            for call, pairs in reversed(outputs):
                found = [(at, gradients[id(t)]) for at, t in pairs if id(t) in gradients]
                if not found:
                    continue
                path = prefix if call.path == ROOT else f"{prefix}.{call.path}"
                with torch.no_grad():
                    leaves = [(at, self._index_of(gradient)) for at, gradient in found]
                self.classes[path] = self.classes[call.path]
                self.calls.append(_PendingCall(path, call.visit, call.output, leaves, None))
                if call.path in self.kept_paths:
                    self.kept[(path, call.visit)] = found[0][1]

    def _record_inputs(self, state: _ModuleState, value: Any) -> None:
        arguments, keywords = value
        if state.path == ROOT and self.entered is None:
            named = by_name(arguments, keywords, self.parameters[ROOT])
            self.entered = whole_numbers(named) if self.summarizer.has_numbers else {}
            if self.summarizer.has_numbers:
                self.digests = tensor_digests(named, self.entered)
        if not state.takes_inputs or (self.steps is not None and self.step not in self.steps):
            return
        count_before = self.summarizer.count
        if len(arguments) == 1 and not keywords and type(arguments[0]) is torch.Tensor:
            leaves = [(state.input_at, self._index_of(arguments[0]))]  # as most modules are called
            state.inputs.append((state.input_structure, leaves))
        else:
            named = by_name(arguments, keywords, self.parameters[state.path])
            structure, tensors = describe(named, "in")
            leaves = [(at, self._index_of(tensor, "mask" in at)) for at, tensor in tensors]
            state.inputs.append((structure, leaves))
        state.has_new_inputs |= self.summarizer.count > count_before

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
            self._add_call(state, visit, "tensor", [("out", self._index_of(value))], step)
        else:
            structure, tensors = describe(value)
            leaves = [(at, self._index_of(tensor)) for at, tensor in tensors]
            self._add_call(state, visit, structure, leaves, step)
            if self.outputs is not None:
                self.outputs.append((self.calls[-1], tensors))
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

    def _index_of(self, tensor: torch.Tensor, is_mask: bool = False) -> int:
        """Return the index of a tensor's summary; the same one while the tensor is not changed.

        A block's output is often the very tensor of its last module, and the input of the next one.
        """
        version, seen = version_of(tensor), self._seen.get(id(tensor))
        if seen is not None and seen[0]() is tensor and seen[1] == version >= 0:
            return seen[2]
        index = self.summarizer.add(tensor, version, is_mask)
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
        calls = []
        for path, visit, output, leaves, inputs, step in self.calls:
            if steps is None or step < steps:
                found = tuple([Leaf(at, summaries[index]) for at, index in leaves])
                calls.append(Call(path, visit, self.classes[path], output, found, inputs))
        return tuple(calls)


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
