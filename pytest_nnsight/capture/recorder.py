"""Collects the values that nnsight hands over, summarises them, and makes calls of them."""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.entries import digests_of
from pytest_nnsight.capture.steps import Steps
from pytest_nnsight.capture.values import by_name, describe, map_tensors, margin_of, whole_numbers
from pytest_nnsight.run import ROOT, Call, Leaf, Summary
from pytest_nnsight.summaries import Summaries


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
    position. A tensor that was seen before, unchanged, is not measured again: a block's output is
    often the very tensor of its last module.
    """

    classes: dict[str, str]
    parameters: dict[str, tuple[str, ...]]
    captured: set[str]
    captures_inputs: bool
    kept_paths: set[str]
    reached: Callable[[str], None] | None = None
    calls: list[_OpenCall] = field(default_factory=list)
    summaries: Summaries = field(default_factory=Summaries)
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
    _visits: Counter[str] = field(default_factory=Counter)
    _inputs: defaultdict[str, list[tuple[str, list[tuple[str, int]]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _seen: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = field(default_factory=dict)

    def receive(self, path: str, slot: str, value: Any) -> None:
        """Take one value; called while the model runs."""
        path = path or ROOT
        if self.reached is not None:
            self.reached(path)
        if path not in self.classes:
            self._note_operation(path)
        receive = self._receive_inputs if slot == "inputs" else self._receive_output
        if torch.is_grad_enabled():
            with torch.no_grad():
                receive(path, value)
        else:
            receive(path, value)

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
        leaves = [(at, self._measure(gradient)) for at, gradient in found]
        self.classes[path] = self.classes[output.path]
        self.calls.append(_OpenCall(path, output.visit, output.structure, leaves, None))
        if output.path in self.kept_paths:
            self.kept[(path, output.visit)] = found[0][1]

    def _receive_inputs(self, path: str, value: Any) -> None:
        arguments, keywords = value
        if (
            len(arguments) == 1
            and not keywords
            and type(arguments[0]) is torch.Tensor
            and path != ROOT
        ):
            self._receive_only(path, arguments[0])
            return
        named = by_name(arguments, keywords, self.parameters[path])
        if path == ROOT and self.entered is None:
            self.entered = whole_numbers(named)
            others = {name: value for name, value in named.items() if name not in self.entered}
            self.digests = digests_of(others) if self.summaries.has_numbers else {}
        if not self.captures_inputs or path not in self.captured or self._is_left_out():
            return
        structure, tensors = describe(named, "in")
        leaves = [(at, self._measure(tensor)) for at, tensor in tensors]
        self._inputs[path].append((structure, leaves))

    def _receive_only(self, path: str, tensor: torch.Tensor) -> None:
        """Take the one argument that most modules have, in as few steps as can be."""
        if not self.captures_inputs or path not in self.captured or self._is_left_out():
            return
        name = self.parameters[path][0] if self.parameters[path] else "0"
        self._inputs[path].append((f"{{{name}=tensor}}", [(f"in.{name}", self._measure(tensor))]))

    def _is_left_out(self) -> bool:
        return self.steps is not None and self.step not in self.steps

    def _receive_output(self, path: str, value: Any) -> None:
        if path == ROOT and (margin := margin_of(value)) is not None:
            self.margins.append(margin)
        if path in self.captured:
            visit = self._visits[path]
            self._visits[path] = visit + 1
            if not self._is_left_out():
                self._record_output(path, visit, value)
        if path == ROOT:
            self.step += 1

    def _record_output(self, path: str, visit: int, value: Any) -> None:
        if type(value) is torch.Tensor and self.outputs is None:
            structure, leaves = "tensor", [("out", self._measure(value))]
        else:
            structure, tensors = describe(value)
            if self.outputs is not None:
                self.outputs.append(Output(path, visit, structure, tuple(tensors)))
            leaves = [(at, self._measure(tensor)) for at, tensor in tensors]
        inputs: str | None = None
        waiting = self._inputs.get(path)
        if waiting:
            inputs, input_leaves = waiting.pop()
            leaves = input_leaves + leaves
        self.calls.append(_OpenCall(path, visit, structure, leaves, inputs, self.step))
        if path in self.kept_paths:
            self.kept[(path, visit)] = map_tensors(value, lambda t: t.detach().clone())

    def _measure(self, tensor: torch.Tensor) -> int:
        # Tensors of inference mode do not count their changes: each sight of one is measured.
        version = -1 if tensor.is_inference() else tensor._version
        known = self._seen.get(id(tensor))
        if known is not None and known[0]() is tensor and known[1] == version >= 0:
            return known[2]
        index = self.summaries.add(tensor)
        self._seen[id(tensor)] = (weakref.ref(tensor), version, index)
        return index

    def finish(self, steps: int | None = None) -> tuple[Call, ...]:
        """Bring all numbers to the host at once and return the calls in execution order.

        Those of the first ``steps`` alone, where a row of a batch ended before the others.
        """
        if self.finished is not None:
            return self.finished
        summaries = self.summaries.finish()
        calls = [call for call in self.calls if steps is None or call.step < steps]
        return tuple(call.close(self.classes[call.path], summaries) for call in calls)


class _OpenCall(NamedTuple):
    """A call whose tensors are still being measured; there are many, made while the model runs."""

    path: str
    visit: int
    output: str
    leaves: list[tuple[str, int]]
    inputs: str | None
    step: int = 0

    def close(self, module_class: str, summaries: list[Summary]) -> Call:
        leaves = tuple(Leaf(at, summaries[index]) for at, index in self.leaves)
        return Call(self.path, self.visit, module_class, self.output, leaves, self.inputs)
