"""What a test asks of one capture: what to record, and what to do while the model runs."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.gradients import Gradients
from pytest_nnsight.capture.paths import matches, select
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.capture.steps import Steps, StepsArgument
from pytest_nnsight.capture.values import parameter_names
from pytest_nnsight.errors import UsageError, suggest
from pytest_nnsight.run import ROOT

Globs = str | Iterable[str]
INPUT_STEPS = 2
"""Steps of a generation that record all inputs by default: the prompt, the first with a cache."""


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """The arguments of `Capture.trace` and `Capture.generate`, without the prompt.

    ``settings`` go to transformers' ``generate``, ``seed`` is the one it samples with, ``at`` are
    the steps at which ``intervene`` is called.
    """

    modules: Globs = "**"
    inputs: bool | None = None
    keep: Globs | bool = False
    operations: Globs = ()
    intervene: Any = None
    at: Steps | None = None
    steps: Steps | None = None
    gradients: Gradients | None = None
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def generating(
        self, settings: Mapping[str, Any], seed: int | None, steps: StepsArgument, at: StepsArgument
    ) -> CaptureRequest:
        """Return this request for a generation: greedy, or with a seed where it samples."""
        if at is not None and self.intervene is None:
            raise UsageError("intervene_at says when to intervene, and there is no intervene=")
        chosen, times = Steps.of(steps, "steps"), Steps.of(at, "intervene_at")
        settings = {"do_sample": False, **settings}
        used = seed if settings["do_sample"] else None
        return replace(self, settings=settings, seed=used, steps=chosen, at=times)

    @property
    def may_run_twice(self) -> bool:
        """Whether no code of the test runs within, which might count its calls."""
        values = [self.intervene, self.gradients, *self.settings.values()]
        return all(value is None or isinstance(value, int | float | str) for value in values)

    def recorder(self, model: Any, reached: Callable[[str], None] | None) -> Recorder:
        """Return the recorder of one run. Raise `UsageError` for a glob that matches nothing."""
        tree = nnsight_api.named_modules(model)
        classes = {path or ROOT: type(module).__name__ for path, module in tree.items()}
        names = {kind: parameter_names(kind) for kind in {type(module) for module in tree.values()}}
        parameters = {path or ROOT: names[type(module)] for path, module in tree.items()}
        captured = set(select(self.modules, list(classes)))
        if self.keep is True:
            kept = set(captured)
        else:
            globs = [glob for glob in _listed(self.keep or ()) if not _is_operation(glob)]
            kept = set(select(globs, list(classes), "keep")) if globs else set()
        recorder = Recorder(classes, parameters, captured | kept, self.has_inputs, kept, reached)
        recorder.steps, recorder.input_steps = self.steps, self.input_steps
        if self.gradients is not None:
            recorder.outputs = []
        return recorder

    def watch(
        self, model: Any, recorder: Recorder, receive: nnsight_api.Receive, *entered: str
    ) -> nnsight_api.Watch:
        """Watch the captured modules, the model itself, and the inputs of ``entered``."""
        captured = {"" if path == ROOT else path for path in recorder.captured}
        inputs = captured if self.has_inputs else set()
        return nnsight_api.Watch(
            [*{*captured, ""}],
            [*{*inputs, *entered, ""}],
            receive,
            None if self.gradients is None else self._differentiate,
            self._operations(model, receive),
        )

    @property
    def has_inputs(self) -> bool:
        """Whether the inputs of modules are recorded, at some steps at least."""
        return self.inputs is not False

    @property
    def input_steps(self) -> int | None:
        """How many of the first steps record all inputs; ``None`` where every step does."""
        is_default = self.inputs is None and self.steps is None
        return INPUT_STEPS if self.settings and is_default else None

    def refuse_remotely(self) -> None:
        """Raise `UsageError` for an argument whose result does not come back from a remote run."""
        tensors = {"keep": self.keep, "gradient_of": self.gradients, "operations": self.operations}
        for name, value in {**tensors, "steps": self.steps, "intervene_at": self.at}.items():
            if value:
                raise UsageError(
                    f"{name}= is not there with --nnsight-remote, which brings summaries back and "
                    "no tensors; leave it out, or run on a model that is here"
                )

    def recorded_settings(self) -> dict[str, Any]:
        """Return what a record says of how a run was asked for."""
        settings = dict(self.settings)
        if self.gradients is not None:
            settings |= self.gradients.settings()
        own = {"seed": self.seed, "steps": self.steps, "intervene_at": self.at}
        return settings | {name: value for name, value in own.items() if value is not None}

    def keeps(self, operation: str) -> bool:
        """Tell whether the values of an operation are kept."""
        if isinstance(self.keep, bool):
            return self.keep
        return any(fnmatch.fnmatchcase(operation, glob) for glob in _listed(self.keep))

    def check_operations(self, paths: Iterable[str]) -> None:
        """Raise `UsageError` for an operation that is in the source but did not run."""
        ran = list(paths)
        for glob in _listed(self.operations):
            if not any(_ran(path, glob) for path in ran):
                raise UsageError(
                    f"operations={glob!r} is in the source, but did not run: another branch was "
                    "taken, or nnsight could not step into it"
                )

    def _differentiate(self, model: Any, tracer: Any) -> None:
        assert self.gradients is not None
        for name, objective in self.gradients.objectives.items():
            self.gradients.scalars[name] = with_all_parameters(objective)(model, tracer, None)

    def _operations(self, model: Any, receive: nnsight_api.Receive) -> list[nnsight_api.Operation]:
        paths = list(nnsight_api.named_modules(model))
        found: list[nnsight_api.Operation] = []
        for glob in _listed(self.operations):
            if not _is_operation(glob):
                raise UsageError(
                    f"operations={glob!r} names no operation; give a module and what it calls, as "
                    "in 'transformer.h.*.attn.source.attention_interface'"
                )
            module, _, inside = glob.partition(nnsight_api.STEP_INTO)
            name, _, inner = inside.partition(nnsight_api.STEP_INTO)
            modules = select(module, paths, "operations")
            named = {path: nnsight_api.operation_names(model, path) for path in modules}
            known = list(dict.fromkeys(n for names in named.values() for n in names))
            if not any(fnmatch.fnmatchcase(n, name) for n in known):
                raise UsageError(
                    f"operations={glob!r}: {name} is nothing that {modules[0]} calls; "
                    f"nearest: {suggest(name, known)}"
                )
            found += [
                nnsight_api.Operation(path, n, receive, self.has_inputs, inner)
                for path, names in named.items()
                for n in names
                if fnmatch.fnmatchcase(n, name)
            ]
        return found


def _listed(globs: Any) -> list[str]:
    return [globs] if isinstance(globs, str) else list(globs)


def _is_operation(glob: str) -> bool:
    return nnsight_api.STEP_INTO in glob


def _ran(path: str, glob: str) -> bool:
    steps, globs = path.split(nnsight_api.STEP_INTO), glob.split(nnsight_api.STEP_INTO)
    same = len(steps) == len(globs) and matches(steps[0], globs[0])
    return same and all(map(fnmatch.fnmatchcase, steps[1:], globs[1:]))


def with_all_parameters(function: Callable[..., Any]) -> nnsight_api.Intervention:
    """Return a function of model, tracer and barrier for one that takes only the first of them."""
    count = parameter_count(function)
    return lambda model, tracer, barrier: function(*(model, tracer, barrier)[:count])


def parameter_count(function: Callable[..., Any]) -> int:
    """Return how many of model, tracer and barrier a function takes."""
    return max(1, min(3, len(inspect.signature(function).parameters)))
