"""The helper behind the ``nnsight_capture`` fixture."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.calibration import calibrate
from pytest_nnsight.capture.entries import (
    intervention_code,
    intervention_name,
    pieces_of,
    plain,
    prompt_ids,
    prompt_width,
    rows_of,
)
from pytest_nnsight.capture.generation import end_ids, quiet_greedy, seeded, until_end
from pytest_nnsight.capture.gradients import Gradients, Objectives
from pytest_nnsight.capture.paths import select
from pytest_nnsight.capture.prompts import Request, check_budget, read
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.capture.remote import Remote, refuse
from pytest_nnsight.capture.scanning import asked, need_weights, outline
from pytest_nnsight.capture.values import parameter_names
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import ROOT, Environment, Generated, ModelRecord, Prompt, Run

Globs = str | Iterable[str]
Identify = Callable[[], tuple[ModelRecord, Environment]]


@dataclass(frozen=True, slots=True)
class Capture:
    """Captures what every module of one model computes.

    ``modules`` and ``keep`` are globs over module paths (``transformer.h.*``, ``**.mlp``), or lists
    of globs. ``keep`` (or ``keep=True`` for all of them) keeps the tensors themselves in the run,
    besides the summaries. What enters the modules is summarised too, where it is not the very
    tensor of an earlier output: that is how the start of a drift is told from what follows of it;
    ``inputs=False`` leaves it out. ``intervene`` is called inside the trace with the model (and the
    tracer, where it takes two arguments).
    """

    model: Any
    identify: Identify
    seed: int = 0
    calibrates: Callable[[str], None] | None = None
    """Where progress goes when each run is to be calibrated, see `calibration`."""
    reached: Callable[[str], None] | None = None
    """Is told the path of each module as its value is handed over."""
    remote: Remote | None = None
    """Where the model runs, if not here."""

    def __repr__(self) -> str:
        """Stay short: pytest prints a failing test's fixtures."""
        return f"nnsight_capture({type(nnsight_api.torch_module(self.model)).__name__})"

    @property
    def can_generate(self) -> bool:
        """Whether the model generates text, so that `generate` works."""
        module = nnsight_api.torch_module(self.model)
        return bool(getattr(module, "can_generate", lambda: False)())

    def trace(
        self,
        prompt: Any,
        *,
        modules: Globs = "**",
        inputs: bool = True,
        keep: Globs | bool = False,
        intervene: Callable[..., Any] | None = None,
        gradient_of: Objectives = None,
    ) -> Run:
        """Run one forward pass and return what every module computed.

        ``prompt`` is text, a list of texts, chat messages, token ids, or a dict of tensors.
        ``gradient_of`` is called inside the trace and returns a scalar, or is a dict of such
        functions by name; its gradient with respect to the output of each module is captured as a
        call ``gradient.transformer.h.3`` (``gradient.NAME.transformer.h.3``). Raise `UsageError`
        for an empty or too long prompt, a glob that matches nothing, or what is no scalar.
        """
        return self._measured(
            keep,
            lambda kept: self._trace(prompt, modules, inputs, kept, intervene, gradient_of),
        )

    def _trace(
        self,
        prompt: Any,
        modules: Globs,
        inputs: bool,
        keep: Globs | bool,
        intervene: Callable[..., Any] | None,
        gradient_of: Objectives,
    ) -> Run:
        request = read(self.model, prompt, generates=False)
        recorder, gradients = self._recorder(modules, keep, inputs), Gradients.of(gradient_of)
        if gradients is not None:
            recorder.outputs = []
        if self.remote is not None:
            refuse(keep=keep, gradient_of=gradient_of)
            self.remote.run(self.model, request, recorder, intervene)
        else:
            watch = _watch(recorder, intervene, gradients)
            nnsight_api.run_trace(self.model, request.arguments, request.keywords, watch)
        if gradients is not None:
            gradients.record(recorder)
        settings = gradients.settings() if gradients is not None else {}
        record = self._prompt(request, recorder, intervene, settings)
        return self._run("trace", record, None, recorder)

    def scan(
        self,
        prompt: Any,
        *,
        modules: Globs = "**",
        inputs: bool = True,
        intervene: Callable[..., Any] | None = None,
    ) -> Run:
        """Return structure, shapes and dtypes of what every module gives; nothing is computed.

        Works without weights too. Raise `UsageError` for a model whose code asks for a number.
        """
        request = read(self.model, prompt, generates=False)
        recorder = self._recorder(modules, False, inputs)
        recorder.measures = outline
        watch = _watch(recorder, intervene)
        nnsight_api.run_scan(self.model, request.arguments, request.keywords, watch)
        recorder.entered = {}
        record = asked(self.model, request, self._prompt(request, recorder, intervene))
        return self._run("scan", record, None, recorder)

    def generate(
        self,
        prompt: Any,
        *,
        max_new_tokens: int = 16,
        modules: Globs = "**",
        inputs: bool = True,
        keep: Globs | bool = False,
        intervene: Callable[..., Any] | None = None,
        seed: int | None = None,
        **generation: Any,
    ) -> Run:
        """Generate, and return what every module computed at every step.

        Greedy unless ``do_sample=True`` is given; a sampled run is seeded with ``seed``, which is
        kept in the golden. Further keywords go to transformers' ``generate``.
        """
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False, **generation}
        return self._measured(
            keep,
            lambda kept: self._generate(prompt, settings, modules, inputs, kept, intervene, seed),
        )

    def _generate(
        self,
        prompt: Any,
        settings: dict[str, Any],
        modules: Globs,
        inputs: bool,
        keep: Globs | bool,
        intervene: Callable[..., Any] | None,
        seed: int | None,
    ) -> Run:
        module = nnsight_api.torch_module(self.model)
        if not self.can_generate:
            raise UsageError(f"{type(module).__name__} cannot generate; use nnsight_capture.trace")
        request = read(self.model, prompt, generates=True)
        check_budget(module, request, settings["max_new_tokens"])
        used_seed = (self.seed if seed is None else seed) if settings["do_sample"] else None
        recorder = self._recorder(modules, keep, inputs)
        quiet = quiet_greedy(module, settings)
        if self.remote is not None:
            refuse(keep=keep)
            ids = self.remote.run(self.model, request, recorder, intervene, quiet, used_seed)
        else:
            watch, keywords = _watch(recorder, intervene), request.keywords | quiet
            with seeded(used_seed):
                ids = nnsight_api.run_generate(self.model, request.arguments, keywords, watch)
        asked = settings | ({} if used_seed is None else {"seed": used_seed})
        record = self._prompt(request, recorder, intervene, asked)
        return self._run("generate", record, self._generated(ids, recorder, request), recorder)

    def _measured(self, keep: Globs | bool, run: Callable[[Globs | bool], Run]) -> Run:
        """Run once, and where noise is to be measured again under every benign change."""
        if self.remote is None:
            need_weights(self.model)
        first = run(keep)
        if self.calibrates is None:
            return first
        return calibrate(self.model, first, lambda: run(False), self.calibrates)

    def _prompt(
        self,
        request: Request,
        recorder: Recorder,
        intervene: Callable[..., Any] | None,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> Prompt:
        """Record what went in, by what really entered the model."""
        token_ids = prompt_ids(recorder.entered or {}, request)
        others = {k: v for k, v in (recorder.entered or {}).items() if k != "input_ids"}
        return Prompt(
            text=request.text,
            token_ids=token_ids,
            pieces=pieces_of(self.model, token_ids),
            tensors={name: rows_of(tensor) for name, tensor in sorted(others.items())},
            is_batch=request.is_batch,
            generation=plain(settings),
            intervention=intervention_name(intervene),
            intervention_code=intervention_code(intervene),
        )

    def _recorder(self, modules: Globs, keep: Globs | bool, inputs: bool) -> Recorder:
        tree = nnsight_api.named_modules(self.model)
        classes = {path or ROOT: type(module).__name__ for path, module in tree.items()}
        takes = {kind: parameter_names(kind) for kind in {type(module) for module in tree.values()}}
        parameters = {path or ROOT: takes[type(module)] for path, module in tree.items()}
        captured = set(select(modules, list(classes)))
        if keep is True:
            kept = set(captured)
        else:
            kept = set(select(keep, list(classes), "keep")) if keep else set()
        return Recorder(classes, parameters, captured | kept, inputs, kept, self.reached)

    def _generated(self, ids: Any, recorder: Recorder, request: Request) -> Generated:
        sequences = getattr(ids, "sequences", ids)
        rows = sequences.detach().cpu()
        module = nnsight_api.torch_module(self.model)
        encoder_decoder = getattr(getattr(module, "config", None), "is_encoder_decoder", False)
        start = 1 if encoder_decoder else prompt_width(recorder.entered or {}, request)
        tokenizer = getattr(self.model, "tokenizer", None)
        ends = end_ids(module, tokenizer)
        new = [until_end(row[start:].tolist(), ends) for row in rows]
        decoded = [
            tokenizer.decode(row, skip_special_tokens=True) if tokenizer is not None else ""
            for row in new
        ]
        margins = torch.stack(recorder.margins, 1).cpu() if recorder.margins else None
        token_ids = tuple(tuple(row) for row in new)
        return Generated(
            token_ids=token_ids,
            text=tuple(decoded),
            pieces=pieces_of(self.model, token_ids),
            margins=()
            if margins is None or margins.shape[0] != len(new)
            else tuple(
                row[: len(ids)].numpy().astype("<f4").tobytes()
                for row, ids in zip(margins, new, strict=True)
            ),
        )

    def _run(
        self, kind: str, prompt: Prompt, generated: Generated | None, recorder: Recorder
    ) -> Run:
        model, environment = self.identify()
        if self.remote is not None:
            environment = self.remote.environment(environment, recorder)
        calls = recorder.finish()
        return Run(kind, model, environment, prompt, generated, calls, kept=recorder.kept)


def _watch(
    recorder: Recorder,
    intervene: Callable[..., Any] | None,
    gradients: Gradients | None = None,
) -> nnsight_api.Watch:
    """Watch the captured modules, and always what enters and leaves the model itself."""
    captured = {"" if path == ROOT else path for path in recorder.captured}
    inputs = captured if recorder.captures_inputs else set()
    objectives = {} if gradients is None else gradients.objectives

    def differentiate(model: Any, tracer: Any) -> None:
        assert gradients is not None
        for name, objective in objectives.items():
            gradients.scalars[name] = _of_both(objective)(model, tracer)

    return nnsight_api.Watch(
        [*{*captured, ""}],
        [*{*inputs, ""}],
        recorder.receive,
        None if intervene is None else _of_both(intervene),
        None if gradients is None else differentiate,
    )


def _of_both(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """Return a function of model and tracer; it may be written without the tracer."""
    if len(inspect.signature(function).parameters) >= 2:
        return function
    return lambda model, tracer: function(model)
