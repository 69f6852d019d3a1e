"""`Capture`, which the ``nnsight_capture`` fixture returns."""

from __future__ import annotations

from collections.abc import Callable, MutableSet, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakSet

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.calibration import calibrate
from pytest_nnsight.capture.callbacks import GradientRequest, Objectives
from pytest_nnsight.capture.collector import gc_paused
from pytest_nnsight.capture.prompts import can_generate
from pytest_nnsight.capture.recorder import ChangedInPlaceError
from pytest_nnsight.capture.remote import Remote
from pytest_nnsight.capture.request import CaptureRequest, Globs
from pytest_nnsight.capture.session import CaptureSession, Identify
from pytest_nnsight.capture.steps import StepsArgument
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import Run

Intervene = Callable[..., Any] | None
Intervenes = Intervene | Sequence[Intervene]


@dataclass(frozen=True, slots=True)
class Capture:
    """Capture what every module of one model computes.

    ``modules`` and ``keep`` are globs over module paths (``transformer.h.*``, ``**.mlp``), or lists
    of globs. ``keep`` (``keep=True`` for all) keeps the tensors themselves in the run, in addition
    to the summaries. ``inputs`` are the arguments of a module's call: they show where a drift
    starts and where it only passes through. By default all are recorded, but after the first two
    steps of a generation only those that no other module returned; ``True`` records all at every
    step, ``False`` none. ``operations`` are globs over what a module's forward calls:
    ``transformer.h.*.attn.source.attention_interface``, with another ``.source.`` for the calls
    inside that. ``intervene`` is called inside the trace with the model, and with the tracer if it
    takes two arguments.
    """

    model: Any
    identify: Identify
    seed: int = 0
    calibrates: Callable[[str], None] | None = None
    """Prints progress, if each run is calibrated (see `calibration`); else ``None``."""
    reached: Callable[[str], None] | None = None
    """Called with the path of each module whose value is received."""
    remote: Remote | None = None
    """Where the model runs, if not in this process."""
    changing: MutableSet[Any] = field(default_factory=WeakSet)
    """The models that change outputs in place; their tensors are copied when received."""

    def __repr__(self) -> str:
        """Stay short: pytest prints a failing test's fixtures."""
        return f"nnsight_capture({type(nnsight_api.torch_module(self.model)).__name__})"

    def of(self, model: Any) -> Capture:
        """Return the capture of a copy of the model: one that was edited, or has other names.

        Runs of both can be compared, because paths are those of torch. Raise `UsageError` for
        another model, whose goldens would be mixed with those of this one.
        """
        if not nnsight_api.is_copy(model, self.model):
            raise UsageError(
                f"nnsight_capture.of takes a copy of the model of this test, got "
                f"{type(model).__name__}; for another model define a fixture nnsight_model"
            )
        return replace(self, model=model)

    @property
    def can_generate(self) -> bool:
        """Whether the model generates text, so that `generate` works."""
        return can_generate(nnsight_api.torch_module(self.model))

    def trace(
        self,
        prompt: Any,
        *,
        modules: Globs = "**",
        inputs: bool | None = None,
        keep: Globs | bool = False,
        operations: Globs = (),
        intervene: Intervene = None,
        gradient_of: Objectives = None,
    ) -> Run:
        """Run one forward pass; return what every module computed.

        ``prompt`` is text, a list of texts, chat messages, token ids, or a dict of tensors.
        ``gradient_of`` is a function that is called inside the trace and returns a scalar, or a
        dict of such functions by name. The gradient with respect to each module's output is
        captured as a call ``gradient.transformer.h.3`` (``gradient.NAME.transformer.h.3``). Raise
        `UsageError` for an empty or too long prompt, a glob that matches nothing, or an objective
        that is not a scalar.
        """
        gradients = GradientRequest.of(gradient_of)
        request = CaptureRequest(modules, inputs, keep, operations, intervene, gradients=gradients)
        return self._calibrated(request, lambda session: session.run("trace", prompt))[0]

    def trace_each(
        self,
        prompts: Sequence[Any],
        *,
        modules: Globs = "**",
        inputs: bool | None = None,
        keep: Globs | bool = False,
        operations: Globs = (),
        intervene: Intervenes = None,
    ) -> list[Run]:
        """Run several prompts in one padded forward pass; return a run for each, without padding.

        Each equals a trace of its prompt alone, within noise, where padding does not change what
        the model computes. ``intervene`` may be a list with a function or ``None`` for each prompt,
        called in an invoke of its own; as third argument it may take a barrier for all of them.
        """
        request = CaptureRequest(modules, inputs, keep, operations, intervene)
        return self._calibrated(request, lambda session: session.run_each("trace", prompts))

    def scan(
        self,
        prompt: Any,
        *,
        modules: Globs = "**",
        inputs: bool | None = None,
        intervene: Intervene = None,
    ) -> Run:
        """Return structure, shapes and dtypes of every module's output, without computing them.

        Works without weights. Raise `UsageError` for a model whose code needs a number.
        """
        request = CaptureRequest(modules, inputs, intervene=intervene)
        return self._captured(request, lambda session: session.run("scan", prompt))[0]

    def generate(
        self,
        prompt: Any,
        *,
        max_new_tokens: int = 16,
        modules: Globs = "**",
        inputs: bool | None = None,
        keep: Globs | bool = False,
        operations: Globs = (),
        steps: StepsArgument = None,
        intervene: Intervene = None,
        intervene_at: StepsArgument = None,
        seed: int | None = None,
        **generation: Any,
    ) -> Run:
        """Generate; return what every module computed at every step.

        Greedy unless ``do_sample=True`` is given; a sampled run uses ``seed``, which the golden
        keeps. ``steps`` are the steps to record, ``intervene_at`` those at which ``intervene`` is
        called: a number, a list or a slice, where step 0 is the prompt. Without them all steps are
        recorded, and ``intervene`` is called once, at the beginning. Further keywords go to
        transformers' ``generate``.
        """
        request = CaptureRequest(modules, inputs, keep, operations, intervene).for_generation(
            {"max_new_tokens": max_new_tokens, **generation},
            self.seed if seed is None else seed,
            steps,
            intervene_at,
        )
        return self._calibrated(request, lambda session: session.run("generate", prompt))[0]

    def generate_each(
        self,
        prompts: Sequence[Any],
        *,
        max_new_tokens: int = 16,
        modules: Globs = "**",
        inputs: bool | None = None,
        keep: Globs | bool = False,
        operations: Globs = (),
        steps: StepsArgument = None,
        intervene: Intervenes = None,
        intervene_at: StepsArgument = None,
        seed: int | None = None,
        **generation: Any,
    ) -> list[Run]:
        """Generate for several prompts in one batch; return a run for each, to its own end.

        The arguments are those of `trace_each` and `generate`.
        """
        request = CaptureRequest(modules, inputs, keep, operations, intervene).for_generation(
            {"max_new_tokens": max_new_tokens, **generation},
            self.seed if seed is None else seed,
            steps,
            intervene_at,
        )
        return self._calibrated(request, lambda session: session.run_each("generate", prompts))

    def _calibrated(
        self, request: CaptureRequest, run: Callable[[CaptureSession], list[Run]]
    ) -> list[Run]:
        """Run once; to calibrate, run again under every benign change."""
        if self.remote is None and nnsight_api.is_skeleton(self.model):
            raise UsageError(
                "the model has no weights (--nnsight-device-map meta): nnsight_capture.scan takes "
                "its structure and shapes; leave the option out for numbers"
            )
        with gc_paused():
            first = self._captured(request, run)
        if self.calibrates is None:
            return first

        def repeat(index: int) -> Run:
            return self._captured(replace(request, keep=False), run)[index]

        return [
            calibrate(self.model, each, partial(repeat, index), self.calibrates)
            for index, each in enumerate(first)
        ]

    def _captured(
        self, request: CaptureRequest, run: Callable[[CaptureSession], list[Run]]
    ) -> list[Run]:
        """Run once, and again with copies if the model changes an output in place."""
        module = nnsight_api.torch_module(self.model)
        is_training = any(part.training for part in module.modules())
        holds_references = request.may_run_twice and not is_training and module not in self.changing
        session = CaptureSession(
            self.model, self.identify, request, self.reached, self.remote, holds_references
        )
        try:
            return run(session)
        except ChangedInPlaceError:
            self.changing.add(module)
            return run(replace(session, holds_references=False))
