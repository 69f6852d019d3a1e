"""The arguments of one capture: what to record, and what to do while the model runs."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.callbacks import GradientRequest
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.capture.steps import Steps, StepsArgument
from pytest_nnsight.capture.values import parameter_names
from pytest_nnsight.errors import UsageError, suggest
from pytest_nnsight.run import ROOT
from pytest_nnsight.summary.summarizer import Summarizer

Globs = str | Iterable[str]
INPUT_STEPS = 2
"""Steps of a generation that record all inputs by default: the prompt, the first with a cache."""


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """The arguments of `Capture.trace` and `Capture.generate`, without the prompt.

    ``settings`` are passed to transformers' ``generate``, which samples with ``seed``.
    ``intervene_steps`` are the steps at which ``intervene`` is called.
    """

    modules: Globs = "**"
    inputs: bool | None = None
    keep: Globs | bool = False
    operations: Globs = ()
    intervene: Any = None
    intervene_steps: Steps | None = None
    steps: Steps | None = None
    gradients: GradientRequest | None = None
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def for_generation(
        self,
        settings: Mapping[str, Any],
        seed: int | None,
        steps: StepsArgument,
        intervene_at: StepsArgument,
    ) -> CaptureRequest:
        """Return this request for a generation: greedy, or with a seed where it samples."""
        if intervene_at is not None and self.intervene is None:
            raise UsageError("intervene_at says when to intervene, and there is no intervene=")
        settings = {"do_sample": False, **settings}
        return replace(
            self,
            settings=settings,
            seed=seed if settings["do_sample"] else None,
            steps=Steps.of(steps, "steps"),
            intervene_steps=Steps.of(intervene_at, "intervene_at"),
        )

    @property
    def may_run_twice(self) -> bool:
        """Whether the run calls no function of the test, which could behave differently again."""
        values = [self.intervene, self.gradients, *self.settings.values()]
        return all(value is None or isinstance(value, int | float | str) for value in values)

    def recorder(
        self, model: Any, summarizer: Summarizer, reached: Callable[[str], None] | None
    ) -> Recorder:
        """Return the recorder of one run. Raise `UsageError` for a glob that matches nothing."""
        tree = nnsight_api.named_modules(model)
        classes = {path or ROOT: type(module).__name__ for path, module in tree.items()}
        names = {kind: parameter_names(kind) for kind in {type(module) for module in tree.values()}}
        parameters = {path or ROOT: names[type(module)] for path, module in tree.items()}
        captured = set(select(self.modules, list(classes)))
        kept = set(captured) if self.keep is True else set()
        globs = ["*"] if self.keep is True else _listed(self.keep or ())
        module_globs = [glob for glob in globs if nnsight_api.SOURCE not in glob]
        if self.keep is not True and module_globs:
            kept = set(select(module_globs, list(classes), "keep"))
        return Recorder(
            classes,
            parameters,
            captured | kept,
            self._input_steps(),
            kept,
            globs,
            reached,
            summarizer=summarizer,
            steps=self.steps,
            outputs=None if self.gradients is None else [],
        )

    def subscription(
        self, model: Any, recorder: Recorder, receive: nnsight_api.Receive, *more_inputs: str
    ) -> nnsight_api.Subscription:
        """Subscribe to the captured modules, to the model itself, and to ``more_inputs``."""
        captured = {"" if path == ROOT else path for path in recorder.captured}
        inputs = set() if self.inputs is False else captured
        return nnsight_api.Subscription(
            [*{*captured, ""}],
            [*{*inputs, *more_inputs, ""}],
            receive,
            None if self.gradients is None else self.gradients.call,
            self._operations(model, receive),
        )

    def _input_steps(self) -> int:
        """Return how many of the first steps record all inputs."""
        if self.inputs is False:
            return 0
        is_default = self.inputs is None and self.steps is None
        return INPUT_STEPS if self.settings and is_default else sys.maxsize

    def check_remote(self) -> None:
        """Raise `UsageError` for an argument that a remote run does not support."""
        tensors = {"keep": self.keep, "gradient_of": self.gradients, "operations": self.operations}
        for name, value in {**tensors, **self._requested_steps()}.items():
            if value:
                raise UsageError(
                    f"{name}= does not work with --nnsight-remote, which returns summaries and no "
                    "tensors; leave it out, or run the test without --nnsight-remote"
                )

    def recorded_settings(self) -> dict[str, Any]:
        """Return the settings that a record holds: of the generation, gradients, seed and steps."""
        seed = {} if self.seed is None else {"seed": self.seed}
        gradients = {} if self.gradients is None else self.gradients.settings()
        return {**self.settings, **gradients, **seed, **self._requested_steps()}

    def check_all_ran(self, recorder: Recorder) -> None:
        """Raise `UsageError` for a requested step or operation that did not run."""
        for option, steps in self._requested_steps().items():
            steps.check(recorder.step, option)
        for glob in _listed(self.operations):
            if not any(_ran(path, glob) for path in recorder.captured):
                raise UsageError(
                    f"operations={glob!r} is in the source, but did not run: the forward took "
                    "another branch, or nnsight could not trace it"
                )

    def _requested_steps(self) -> dict[str, Steps]:
        steps = {"steps": self.steps, "intervene_at": self.intervene_steps}
        return {option: each for option, each in steps.items() if each is not None}

    def _operations(self, model: Any, receive: nnsight_api.Receive) -> list[nnsight_api.Operation]:
        paths = list(nnsight_api.named_modules(model))
        found: list[nnsight_api.Operation] = []
        for glob in _listed(self.operations):
            if nnsight_api.SOURCE not in glob:
                raise UsageError(
                    f"operations={glob!r} names no operation; give a module and what it calls, as "
                    "in 'transformer.h.*.attn.source.attention_interface'"
                )
            module, _, inside = glob.partition(nnsight_api.SOURCE)
            name, _, inner = inside.partition(nnsight_api.SOURCE)
            modules = select(module, paths, "operations")
            names_in = partial(nnsight_api.operation_names, model)
            called = [(path, n) for path in modules for n in names_in(path)]
            matching = [(path, n) for path, n in called if fnmatch.fnmatchcase(n, name)]
            if not matching:
                nearest = suggest(name, list(dict.fromkeys(n for _, n in called)))
                raise UsageError(
                    f"operations={glob!r}: {modules[0]} does not call {name}; nearest: {nearest}"
                )
            reads_inputs = self.inputs is not False
            found += [nnsight_api.Operation(*m, receive, reads_inputs, inner) for m in matching]
        return found


def _listed(globs: Any) -> list[str]:
    return [globs] if isinstance(globs, str) else list(globs)


def _ran(path: str, glob: str) -> bool:
    parts, globs = path.split(nnsight_api.SOURCE), glob.split(nnsight_api.SOURCE)
    is_same_module = _matches(parts[0].split("."), globs[0].split("."))
    is_as_deep = len(parts) == len(globs)
    return is_same_module and is_as_deep and all(map(fnmatch.fnmatchcase, parts[1:], globs[1:]))


def select(globs: str | Iterable[str], paths: Sequence[str], option: str = "modules") -> list[str]:
    """Return the ``paths`` that match any of the ``globs``, in the order of ``paths``.

    ``*`` and ``?`` and ``[...]`` stay inside one part between dots, ``**`` spans any number of
    parts. Raise `UsageError`, naming the nearest paths, where a glob matches nothing.
    """
    patterns = _listed(globs)
    if not patterns:
        raise UsageError(f"{option}=[] selects no module; leave it out to select every module")
    chosen: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise UsageError(f"{option}= takes globs over module paths, got {pattern!r}")
        matching = [path for path in paths if _matches(path.split("."), pattern.split("."))]
        if not matching:
            nearest = suggest(pattern.replace("**.", "").replace("*", "0"), paths)
            raise UsageError(f"{option}={pattern!r} matches no module; nearest: {nearest}")
        chosen.update(matching)
    return [path for path in paths if path in chosen]


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Tell whether the parts of a glob match those of a path."""
    if not patterns:
        return not parts
    first, *rest = patterns
    if first == "**":
        return any(_matches(parts[skip:], rest) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], first) and _matches(parts[1:], rest)
