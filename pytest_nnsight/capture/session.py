"""Take one capture: a prompt and a `CaptureRequest` go through nnsight and give a `Run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.batch_splitter import BatchSplitter
from pytest_nnsight.capture.generation import first_new, generated, quiet_greedy, seeded
from pytest_nnsight.capture.model_inputs import prompt_record, prompt_width, with_prompt_ids
from pytest_nnsight.capture.paths import check_called
from pytest_nnsight.capture.prompts import PreparedPrompt, check_budget, prepare
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.capture.remote import Remote
from pytest_nnsight.capture.request import CaptureRequest, parameter_count, with_all_parameters
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import ROOT, Environment, Generated, ModelRecord, Run

Identify = Callable[[], tuple[ModelRecord, Environment]]


@dataclass(frozen=True, slots=True)
class CaptureSession:
    """Take one capture of a model, of a single prompt or of several at once.

    ``reached`` is called with the path of each module whose value arrives. With ``holds`` tensors
    wait instead of copies; `ChangedInPlaceError` is raised where one of them was changed meanwhile.
    """

    model: Any
    identify: Identify
    request: CaptureRequest
    reached: Callable[[str], None] | None = None
    remote: Remote | None = None
    holds: bool = False

    def trace(self, prompt: Any) -> Run:
        """Run one forward pass."""
        prepared = prepare(self.model, prompt, generates=False)
        recorder = self._recorder()
        if self.remote is not None:
            self.request.refuse_remotely()
            self.remote.run(self.model, prepared, recorder, self.request.intervene)
            return self._run("trace", prepared, recorder)
        watch = self.request.watch(self.model, recorder, recorder.receive)
        nnsight_api.run_trace(self.model, [self._invoke(prepared)], watch)
        if self.request.gradients is not None:
            self.request.gradients.record(recorder)
        self.request.check_operations(recorder.operations)
        return self._run("trace", prepared, recorder)

    def generate(self, prompt: Any) -> Run:
        """Generate, greedily or with a seed."""
        prepared = prepare(self.model, prompt, generates=True)
        recorder = self._recorder()
        self._check_budgets([prepared])
        if self.remote is not None:
            ids = self._remote_ids(prepared, recorder)
        else:
            watch = self.request.watch(self.model, recorder, recorder.receive)
            ids = self._ids([self._invoke(prepared)], watch)
            self._check_steps(recorder)
        start = self._start(ids, prompt_width(recorder.entered or {}, prepared))
        text = self._generated(ids, recorder, start, len(prepared.token_counts))
        return self._run("generate", prepared, recorder, text)

    def scan(self, prompt: Any) -> Run:
        """Find structure, shapes and dtypes without computing anything."""
        prepared = prepare(self.model, prompt, generates=False)
        recorder = self._recorder()
        recorder.summarizer.has_numbers = False
        watch = self.request.watch(self.model, recorder, recorder.receive)
        nnsight_api.run_scan(self.model, self._invoke(prepared), watch)
        recorder.entered = {}
        return self._run("scan", prepared, recorder)

    def trace_each(self, prompts: Sequence[Any]) -> list[Run]:
        """Run one forward pass over several prompts; return one run for each of them."""
        prepared, invokes, splitter = self._batch(prompts, generates=False)
        nnsight_api.run_trace(self.model, invokes, self._watch_batch(splitter))
        self._check_batch(splitter)
        return [
            self._run("trace", each, recorder, row=row, batch=prepared)
            for row, (each, recorder) in enumerate(zip(prepared, splitter.recorders, strict=True))
        ]

    def generate_each(self, prompts: Sequence[Any]) -> list[Run]:
        """Generate for several prompts at once; return one run for each, to its own end."""
        prepared, invokes, splitter = self._batch(prompts, generates=True)
        ids = self._ids(invokes, self._watch_batch(splitter))
        self._check_batch(splitter)
        self._check_steps(splitter.recorders[0])
        start = self._start(ids, splitter.width)
        runs = []
        for row, (each, recorder) in enumerate(zip(prepared, splitter.recorders, strict=True)):
            of_row = None if ids is None else ids[row : row + 1]
            text = self._generated(of_row, recorder, start, 1)
            runs.append(self._run("generate", each, recorder, text, row, prepared))
        return runs

    def _recorder(self) -> Recorder:
        recorder = self.request.recorder(self.model, self.reached)
        recorder.keeps = self.request.keeps
        recorder.summarizer.holds = self.holds
        return recorder

    def _batch(
        self, prompts: Sequence[Any], generates: bool
    ) -> tuple[list[PreparedPrompt], list[nnsight_api.Invoke], BatchSplitter]:
        """Return each prompt prepared, the invokes of all, and what receives their values.

        Prompts with interventions of their own get an invoke each, else they are one batch.
        """
        prompts = list(prompts)
        if self.remote is not None:
            raise UsageError(
                "trace_each and generate_each are not there with --nnsight-remote; capture each "
                "prompt by itself"
            )
        prepared = [prepare(self.model, prompt, generates) for prompt in prompts]
        if len(prepared) < 2 or any(each.is_batch for each in prepared):
            raise UsageError("give a list of two prompts or more, each a single one")
        if generates:
            self._check_budgets(prepared)
        if isinstance(self.request.intervene, list | tuple):
            invokes = self._invokes(prepared, self.request.intervene)
        else:
            invokes = [self._invoke(prepare(self.model, prompts, generates))]
        splitter = BatchSplitter([self._recorder() for _ in prepared], ())
        splitter.parameters = splitter.recorders[0].parameters[ROOT]
        mask = invokes[0].keywords.get("attention_mask") if len(invokes) == 1 else None
        splitter.mask = None if mask is None else mask.bool()
        return prepared, invokes, splitter

    def _watch_batch(self, splitter: BatchSplitter) -> nnsight_api.Watch:
        """Watch a batch, and the inputs of an encoder, which may run before the model is called."""
        first = splitter.recorders[0]
        encoders = [path for path in ("encoder", "model.encoder") if path in first.classes]
        return self.request.watch(self.model, first, splitter.receive, *encoders)

    def _invokes(
        self, prepared: Sequence[PreparedPrompt], interventions: Sequence[Any]
    ) -> list[nnsight_api.Invoke]:
        if len(interventions) != len(prepared):
            raise UsageError(
                f"intervene has {len(interventions)} functions for {len(prepared)} prompts; give "
                "one for each, None for none"
            )
        return [self._invoke(each, f) for each, f in zip(prepared, interventions, strict=True)]

    def _invoke(self, prepared: PreparedPrompt, intervene: Any = ...) -> nnsight_api.Invoke:
        function = self.request.intervene if intervene is ... else intervene
        at = self.request.at
        return nnsight_api.Invoke(
            prepared.arguments,
            prepared.keywords,
            None if function is None else with_all_parameters(function),
            None if at is None else at.for_nnsight(self.request.settings["max_new_tokens"]),
            waits=function is not None and parameter_count(function) == 3,
        )

    def _check_budgets(self, prepared: Sequence[PreparedPrompt]) -> None:
        module = nnsight_api.torch_module(self.model)
        if not bool(getattr(module, "can_generate", lambda: False)()):
            raise UsageError(f"{type(module).__name__} cannot generate; use nnsight_capture.trace")
        for each in prepared:
            check_budget(module, each, self.request.settings["max_new_tokens"])

    def _ids(self, invokes: list[nnsight_api.Invoke], watch: nnsight_api.Watch) -> Any:
        """Generate; return all ids of each row, the prompt's too, or ``None`` if stopped."""
        quiet = quiet_greedy(nnsight_api.torch_module(self.model), self.request.settings)
        with seeded(self.request.seed):
            ids = nnsight_api.run_generate(self.model, invokes, quiet, watch)
        return None if ids is None else getattr(ids, "sequences", ids).detach().cpu()

    def _remote_ids(self, prepared: PreparedPrompt, recorder: Recorder) -> Any:
        """Generate where the model is; return the ids as `_ids` does."""
        assert self.remote is not None
        self.request.refuse_remotely()
        request, module = self.request, nnsight_api.torch_module(self.model)
        quiet = quiet_greedy(module, request.settings)
        return self.remote.run(
            self.model, prepared, recorder, request.intervene, quiet, request.seed
        )

    def _generated(self, ids: Any, recorder: Recorder, start: int, prompts: int) -> Generated:
        settings = self.request.settings
        return generated(self.model, ids, recorder.margins, start, settings, prompts)

    def _start(self, ids: Any, width: int) -> int:
        """Return how many of the returned ids are not new: the prompt, or the start token."""
        module = nnsight_api.torch_module(self.model)
        is_pair = getattr(getattr(module, "config", None), "is_encoder_decoder", False)
        if not is_pair or ids is None:
            return width
        return first_new(module, ids, self.request.settings)

    def _check_steps(self, recorder: Recorder) -> None:
        for steps, option in ((self.request.steps, "steps"), (self.request.at, "intervene_at")):
            if steps is not None:
                steps.check(recorder.step, option)
        self.request.check_operations(recorder.operations)

    def _check_batch(self, splitter: BatchSplitter) -> None:
        if splitter.unclear:
            raise UsageError(splitter.unclear)
        self.request.check_operations(splitter.recorders[0].operations)

    def _run(
        self,
        kind: str,
        prepared: PreparedPrompt,
        recorder: Recorder,
        text: Generated | None = None,
        row: int | None = None,
        batch: Sequence[PreparedPrompt] = (),
    ) -> Run:
        """Build the run of one prompt: ``row`` of a ``batch``, or a single one."""
        model, environment = self.identify()
        if self.remote is not None:
            environment = self.remote.environment(environment, recorder)
        intervene, settings = self.request.intervene, self.request.recorded_settings()
        if row is not None and isinstance(intervene, list | tuple):
            intervene = intervene[row]  # it may take values from the other prompts
            settings["beside"] = str([each.as_asked for each in batch if each is not prepared])
        prompt = prompt_record(self.model, prepared, recorder, settings, intervene)
        if kind == "scan":
            prompt = with_prompt_ids(self.model, prepared, prompt)
        ended = row is not None and text is not None and text.token_ids[0]
        calls = recorder.finish(len(ended) if ended else None)
        check_called(recorder.captured, [call.path for call in calls])
        return Run(kind, model, environment, prompt, text, calls, kept=recorder.kept)
