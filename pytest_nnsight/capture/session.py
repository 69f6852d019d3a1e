"""Run a prompt and a `CaptureRequest` through nnsight, and build a `Run`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.batch_splitter import BatchSplitter
from pytest_nnsight.capture.callbacks import parameter_count, with_all_parameters
from pytest_nnsight.capture.prompts import PreparedPrompt, check_generation, prepare
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.capture.records import generated_record, prompt_record
from pytest_nnsight.capture.remote import Remote
from pytest_nnsight.capture.request import CaptureRequest
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import ROOT, Environment, ModelRecord, Run
from pytest_nnsight.summary.summarizer import Summarizer

Identify = Callable[[], tuple[ModelRecord, Environment]]


@dataclass(frozen=True, slots=True)
class CaptureSession:
    """One capture of a model, for a single prompt or for several at once.

    With ``holds_references`` tensors are measured later without a copy; `ChangedInPlaceError` is
    raised where one of them was changed in the meantime.
    """

    model: Any
    identify: Identify
    request: CaptureRequest
    reached: Callable[[str], None] | None = None
    remote: Remote | None = None
    holds_references: bool = False

    def run(self, kind: str, prompt: Any) -> list[Run]:
        """Run one prompt, or several as one run; ``kind`` is ``trace``, ``generate`` or ``scan``.

        A scan returns structure, shapes and dtypes, and computes nothing.
        """
        prepared = self._prepared(kind, [prompt])[0]
        recorder = self._recorder(has_numbers=kind != "scan")
        if self.remote is not None and kind != "scan":
            self.request.check_remote()
            intervene, seed = self.request.intervene, self.request.seed
            settings = self._settings() if kind == "generate" else None
            ids = self.remote.run(self.model, prepared, recorder, intervene, settings, seed)
        else:
            invoke = self._invoke(prepared, self.request.intervene)
            ids = self._execute(kind, [invoke], recorder, recorder.receive)
        entered = (recorder.entered or {}).get("input_ids")
        width = max(prepared.token_counts) if entered is None else entered.shape[1]
        return [self._run(kind, prepared, recorder, ids, width)]

    def run_each(self, kind: str, prompts: Sequence[Any]) -> list[Run]:
        """Run several prompts as one batch; return a run for each of them, to its own end."""
        if self.remote is not None:
            raise UsageError(
                "trace_each and generate_each do not work with --nnsight-remote; capture each "
                "prompt by itself"
            )
        prompts = list(prompts)
        prepared = self._prepared(kind, prompts)
        if len(prepared) < 2 or any(each.is_batch for each in prepared):
            raise UsageError("give a list of two prompts or more, each a single one")
        invokes = self._invokes(kind, prompts, prepared)
        recorders = [self._recorder() for _ in prepared]
        mask = invokes[0].keywords.get("attention_mask") if len(invokes) == 1 else None
        mask = None if mask is None else mask.bool()
        splitter = BatchSplitter(recorders, recorders[0].parameters[ROOT], mask)
        # An encoder may run before the model itself is called.
        encoders = {"encoder", "model.encoder"} & recorders[0].classes.keys()
        ids = self._execute(kind, invokes, recorders[0], splitter.receive, *encoders)
        if splitter.problem:
            raise UsageError(splitter.problem)
        return [
            self._run(
                kind,
                prepared[index],
                recorder,
                None if ids is None else ids[index : index + 1],
                splitter.width,
                index,
                prepared,
            )
            for index, recorder in enumerate(recorders)
        ]

    def _prepared(self, kind: str, prompts: Iterable[Any]) -> list[PreparedPrompt]:
        prepared = [prepare(self.model, prompt, kind == "generate") for prompt in prompts]
        if kind == "generate":
            module = nnsight_api.torch_module(self.model)
            check_generation(module, prepared, self.request.settings)
        return prepared

    def _recorder(self, has_numbers: bool = True) -> Recorder:
        summarizer = Summarizer(has_numbers, self.holds_references)
        return self.request.recorder(self.model, summarizer, self.reached)

    def _invokes(
        self, kind: str, prompts: list[Any], prepared: Sequence[PreparedPrompt]
    ) -> list[nnsight_api.Invoke]:
        """Return an invoke for each prompt where each has an intervention, else a single one."""
        intervene = self.request.intervene
        if not isinstance(intervene, list | tuple):
            return [self._invoke(prepare(self.model, prompts, kind == "generate"), intervene)]
        if len(intervene) != len(prepared):
            raise UsageError(
                f"intervene has {len(intervene)} functions for {len(prepared)} prompts; give one "
                "for each, None for none"
            )
        return [self._invoke(*pair) for pair in zip(prepared, intervene, strict=True)]

    def _invoke(self, prepared: PreparedPrompt, function: Any) -> nnsight_api.Invoke:
        steps = self.request.intervene_steps
        return nnsight_api.Invoke(
            prepared.arguments,
            prepared.keywords,
            None if function is None else with_all_parameters(function),
            None if steps is None else steps.for_nnsight(self.request.settings["max_new_tokens"]),
            waits=function is not None and parameter_count(function) == 3,
        )

    def _execute(
        self,
        kind: str,
        invokes: list[nnsight_api.Invoke],
        recorder: Recorder,
        receive: nnsight_api.Receive,
        *encoders: str,
    ) -> torch.Tensor | None:
        """Run the model; return ids ``[prompts, tokens]`` of a generation, with the prompt's."""
        subscription = self.request.subscription(self.model, recorder, receive, *encoders)
        ids = None
        if kind == "trace":
            nnsight_api.run_trace(self.model, invokes, subscription)
        elif kind == "scan":
            nnsight_api.run_scan(self.model, invokes[0], subscription)
        else:
            seed = self.request.seed
            with torch.random.fork_rng(enabled=seed is not None):
                if seed is not None:
                    torch.manual_seed(seed)
                ids = nnsight_api.run_generate(self.model, invokes, self._settings(), subscription)
        if self.request.gradients is not None:
            recorder.record_gradients(self.request.gradients)
        self.request.check_all_ran(recorder)
        return None if ids is None else getattr(ids, "sequences", ids).detach().cpu()

    def _settings(self) -> dict[str, Any]:
        """Return the settings to call ``generate`` with.

        In a greedy call they unset the checkpoint's defaults for sampling, of which transformers
        warns.
        """
        settings = self.request.settings
        if settings["do_sample"]:
            return dict(settings)
        module = nnsight_api.torch_module(self.model)
        defaults = getattr(module, "generation_config", None)
        names = ("temperature", "top_p", "top_k", "typical_p", "min_p")
        unset = {name: None for name in names if getattr(defaults, name, None) is not None}
        return unset | dict(settings)

    def _run(
        self,
        kind: str,
        prepared: PreparedPrompt,
        recorder: Recorder,
        ids: torch.Tensor | None,
        width: int,
        index: int = 0,
        batch: Sequence[PreparedPrompt] = (),
    ) -> Run:
        """Build the run of one prompt, which may be number ``index`` of a ``batch``.

        ``ids`` are those of a generation; the first ``width`` of them are the prompt.
        """
        model, environment = self.identify()
        if self.remote is not None:
            environment = self.remote.environment(environment, recorder)
        intervene, settings = self.request.intervene, self.request.recorded_settings()
        if batch and isinstance(intervene, list | tuple):
            intervene = intervene[index]  # it may read values of the others
            settings["beside"] = str([each.text_or_ids for each in batch if each is not prepared])
        prompt = prompt_record(self.model, prepared, recorder, settings, intervene)
        generated, steps = None, None
        if kind == "generate":
            prompts = len(prepared.token_counts)
            generated = generated_record(
                self.model, ids, recorder.margins, width, self.request.settings, prompts
            )
            steps = len(generated.token_ids[0]) or None if batch else None
        calls = recorder.finish(steps)
        if not calls:
            names = ", ".join(sorted(recorder.captured)[:3])
            raise UsageError(
                f"nothing was captured: {names} not called before the run ended; a ModuleList is "
                'not called itself, its items are: modules="transformer.h.*"'
            )
        return Run(kind, model, environment, prompt, generated, calls, tensors=recorder.kept)
