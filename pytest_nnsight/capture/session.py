"""Run a prompt and a `CaptureRequest` through nnsight, and build a `Run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.batch_splitter import BatchSplitter
from pytest_nnsight.capture.callbacks import parameter_count, with_all_parameters
from pytest_nnsight.capture.generation import generate_settings, generated_record, seeded
from pytest_nnsight.capture.model_inputs import prompt_record, with_prompt_ids
from pytest_nnsight.capture.prompts import PreparedPrompt, check_generation, prepare
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.capture.remote import Remote
from pytest_nnsight.capture.request import CaptureRequest
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import ROOT, Environment, Generated, ModelRecord, Run

Identify = Callable[[], tuple[ModelRecord, Environment]]


@dataclass(frozen=True, slots=True)
class CaptureSession:
    """One capture of a model, for a single prompt or for several at once.

    ``reached`` is called with the path of each module whose value is received. With
    ``holds_references`` tensors are measured later without a copy; `ChangedInPlaceError` is raised
    where one of them was changed in the meantime.
    """

    model: Any
    identify: Identify
    request: CaptureRequest
    reached: Callable[[str], None] | None = None
    remote: Remote | None = None
    holds_references: bool = False

    def trace(self, prompt: Any) -> Run:
        """Run one forward pass."""
        prepared = prepare(self.model, prompt, generates=False)
        recorder = self._recorder()
        if self.remote is not None:
            self._run_remote(self.remote, prepared, recorder)
            return self._run("trace", prepared, recorder)
        subscription = self.request.subscription(self.model, recorder, recorder.receive)
        invoke = self._invoke(prepared, self.request.intervene)
        nnsight_api.run_trace(self.model, [invoke], subscription)
        if self.request.gradients is not None:
            recorder.record_gradients(self.request.gradients)
        self._check(recorder)
        return self._run("trace", prepared, recorder)

    def generate(self, prompt: Any) -> Run:
        """Generate, greedily or with a seed."""
        prepared = prepare(self.model, prompt, generates=True)
        recorder = self._recorder()
        check_generation(nnsight_api.torch_module(self.model), [prepared], self.request.settings)
        if self.remote is not None:
            ids = self._run_remote(self.remote, prepared, recorder, self._settings())
        else:
            subscription = self.request.subscription(self.model, recorder, recorder.receive)
            ids = self._ids([self._invoke(prepared, self.request.intervene)], subscription)
            self._check(recorder)
        entered = (recorder.entered or {}).get("input_ids")
        width = max(prepared.token_counts) if entered is None else entered.shape[1]
        generated = self._generated(ids, recorder, width, len(prepared.token_counts))
        return self._run("generate", prepared, recorder, generated)

    def scan(self, prompt: Any) -> Run:
        """Return structure, shapes and dtypes without computing anything."""
        prepared = prepare(self.model, prompt, generates=False)
        recorder = self._recorder()
        recorder.summarizer.has_numbers = False
        subscription = self.request.subscription(self.model, recorder, recorder.receive)
        invoke = self._invoke(prepared, self.request.intervene)
        nnsight_api.run_scan(self.model, invoke, subscription)
        recorder.entered = {}
        return self._run("scan", prepared, recorder)

    def trace_each(self, prompts: Sequence[Any]) -> list[Run]:
        """Run one forward pass over several prompts; return one run for each of them."""
        prepared, invokes, splitter = self._batch(prompts, generates=False)
        nnsight_api.run_trace(self.model, invokes, self._batch_subscription(splitter))
        self._check(splitter.recorders[0], splitter.problem)
        return [
            self._run("trace", each, recorder, index=index, batch=prepared)
            for index, (each, recorder) in enumerate(zip(prepared, splitter.recorders, strict=True))
        ]

    def generate_each(self, prompts: Sequence[Any]) -> list[Run]:
        """Generate for several prompts at once; return one run for each, to its own end."""
        prepared, invokes, splitter = self._batch(prompts, generates=True)
        ids = self._ids(invokes, self._batch_subscription(splitter))
        self._check(splitter.recorders[0], splitter.problem)
        runs = []
        for index, (each, recorder) in enumerate(zip(prepared, splitter.recorders, strict=True)):
            prompt_ids = None if ids is None else ids[index : index + 1]
            generated = self._generated(prompt_ids, recorder, splitter.width, 1)
            runs.append(self._run("generate", each, recorder, generated, index, prepared))
        return runs

    def _recorder(self) -> Recorder:
        recorder = self.request.recorder(self.model, self.reached)
        recorder.summarizer.holds_references = self.holds_references
        return recorder

    def _batch(
        self, prompts: Sequence[Any], generates: bool
    ) -> tuple[list[PreparedPrompt], list[nnsight_api.Invoke], BatchSplitter]:
        """Prepare prompts; return them, their invokes, and the splitter that receives the values.

        A list of interventions needs an invoke for each prompt; else one invoke has the batch.
        """
        prompts = list(prompts)
        if self.remote is not None:
            raise UsageError(
                "trace_each and generate_each do not work with --nnsight-remote; capture each "
                "prompt by itself"
            )
        prepared = [prepare(self.model, prompt, generates) for prompt in prompts]
        if len(prepared) < 2 or any(each.is_batch for each in prepared):
            raise UsageError("give a list of two prompts or more, each a single one")
        if generates:
            module = nnsight_api.torch_module(self.model)
            check_generation(module, prepared, self.request.settings)
        intervene = self.request.intervene
        if not isinstance(intervene, list | tuple):
            invokes = [self._invoke(prepare(self.model, prompts, generates), intervene)]
        elif len(intervene) != len(prepared):
            raise UsageError(
                f"intervene has {len(intervene)} functions for {len(prepared)} prompts; give one "
                "for each, None for none"
            )
        else:
            invokes = [self._invoke(*pair) for pair in zip(prepared, intervene, strict=True)]
        splitter = BatchSplitter([self._recorder() for _ in prepared], ())
        splitter.parameters = splitter.recorders[0].parameters[ROOT]
        mask = invokes[0].keywords.get("attention_mask") if len(invokes) == 1 else None
        splitter.mask = None if mask is None else mask.bool()
        return prepared, invokes, splitter

    def _batch_subscription(self, splitter: BatchSplitter) -> nnsight_api.Subscription:
        """Subscribe for a batch, also to the inputs of an encoder, which may run first."""
        first = splitter.recorders[0]
        encoders = [path for path in ("encoder", "model.encoder") if path in first.classes]
        return self.request.subscription(self.model, first, splitter.receive, *encoders)

    def _invoke(self, prepared: PreparedPrompt, function: Any) -> nnsight_api.Invoke:
        steps = self.request.intervene_steps
        return nnsight_api.Invoke(
            prepared.arguments,
            prepared.keywords,
            None if function is None else with_all_parameters(function),
            None if steps is None else steps.for_nnsight(self.request.settings["max_new_tokens"]),
            waits=function is not None and parameter_count(function) == 3,
        )

    def _ids(
        self, invokes: list[nnsight_api.Invoke], subscription: nnsight_api.Subscription
    ) -> Any:
        """Generate; return ids ``[prompts, tokens]`` with those of the prompt, or ``None``."""
        with seeded(self.request.seed):
            ids = nnsight_api.run_generate(self.model, invokes, self._settings(), subscription)
        return None if ids is None else getattr(ids, "sequences", ids).detach().cpu()

    def _run_remote(
        self, remote: Remote, prepared: PreparedPrompt, recorder: Recorder, settings: Any = None
    ) -> Any:
        """Run on the server; with ``settings`` a generation, whose ids are returned."""
        self.request.check_remote()
        intervene, seed = self.request.intervene, self.request.seed
        return remote.run(self.model, prepared, recorder, intervene, settings, seed)

    def _settings(self) -> dict[str, Any]:
        return generate_settings(nnsight_api.torch_module(self.model), self.request.settings)

    def _generated(self, ids: Any, recorder: Recorder, width: int, prompts: int) -> Generated:
        settings = self.request.settings
        return generated_record(self.model, ids, recorder.margins, width, settings, prompts)

    def _check(self, recorder: Recorder, problem: str = "") -> None:
        """Raise `UsageError` for a requested step or operation that did not run, or ``problem``."""
        if problem:
            raise UsageError(problem)
        requested = {"steps": self.request.steps, "intervene_at": self.request.intervene_steps}
        for option, steps in requested.items():
            if steps is not None:
                steps.check(recorder.step, option)
        self.request.check_operations(recorder.captured)

    def _run(
        self,
        kind: str,
        prepared: PreparedPrompt,
        recorder: Recorder,
        generated: Generated | None = None,
        index: int | None = None,
        batch: Sequence[PreparedPrompt] = (),
    ) -> Run:
        """Build the run of one prompt: number ``index`` of a ``batch``, or a single one."""
        model, environment = self.identify()
        if self.remote is not None:
            environment = self.remote.environment(environment, recorder)
        intervene, settings = self.request.intervene, self.request.recorded_settings()
        if index is not None and isinstance(intervene, list | tuple):
            intervene = intervene[index]  # it may read values of the other prompts
            settings["beside"] = str([each.text_or_ids for each in batch if each is not prepared])
        prompt = prompt_record(self.model, prepared, recorder, settings, intervene)
        if kind == "scan":
            prompt = with_prompt_ids(self.model, prepared, prompt)
        new_ids = generated.token_ids[0] if index is not None and generated is not None else ()
        calls = recorder.finish(len(new_ids) or None)
        if not calls:
            names = ", ".join(sorted(recorder.captured)[:3])
            raise UsageError(
                f"nothing was captured: {names} not called before the run ended; a ModuleList is "
                'not called itself, its items are: modules="transformer.h.*"'
            )
        return Run(kind, model, environment, prompt, generated, calls, tensors=recorder.kept)
