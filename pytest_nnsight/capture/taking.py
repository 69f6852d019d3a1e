"""One capture being taken: a prompt and what is wanted -> nnsight -> a `Run`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.entries import (
    intervention_code,
    intervention_name,
    pieces_of,
    plain,
    prompt_digests,
    prompt_ids,
    prompt_width,
    rows_of,
)
from pytest_nnsight.capture.generation import first_new, generated, quiet_greedy, seeded
from pytest_nnsight.capture.paths import check_called
from pytest_nnsight.capture.prompts import Request, check_budget, read
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.capture.remote import Remote
from pytest_nnsight.capture.rows import Rows
from pytest_nnsight.capture.scanning import asked
from pytest_nnsight.capture.wanted import Wanted, of_all, takes
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import ROOT, Environment, Generated, ModelRecord, Prompt, Run

Identify = Callable[[], tuple[ModelRecord, Environment]]


@dataclass(frozen=True, slots=True)
class Taking:
    """Takes one capture of a model, alone or of several prompts at once.

    ``reached`` is told the path of each module as its value is handed over. One that ``holds``
    tensors instead of copies raises `ChangedInPlaceError` where that was wrong.
    """

    model: Any
    identify: Identify
    wanted: Wanted
    reached: Callable[[str], None] | None = None
    remote: Remote | None = None
    holds: bool = False

    def trace(self, prompt: Any) -> Run:
        """Run one forward pass."""
        request = read(self.model, prompt, generates=False)
        recorder = self._recorder()
        if self.remote is not None:
            self.wanted.refuse_remotely()
            self.remote.run(self.model, request, recorder, self.wanted.intervene)
            return self._run("trace", request, recorder)
        watch = self.wanted.watch(self.model, recorder, recorder.receive)
        nnsight_api.run_trace(self.model, [self._invoke(request)], watch)
        if self.wanted.gradients is not None:
            self.wanted.gradients.record(recorder)
        self.wanted.check_operations(recorder.operations)
        return self._run("trace", request, recorder)

    def generate(self, prompt: Any) -> Run:
        """Generate, greedily or with a seed."""
        request = read(self.model, prompt, generates=True)
        recorder = self._recorder()
        self._check_budgets([request])
        if self.remote is not None:
            ids = self._remote_ids(request, recorder)
        else:
            watch = self.wanted.watch(self.model, recorder, recorder.receive)
            ids = self._ids([self._invoke(request)], watch)
            self._check_steps(recorder)
        start = self._start(ids, prompt_width(recorder.entered or {}, request))
        text = self._text(ids, recorder, start, len(request.rows))
        return self._run("generate", request, recorder, text)

    def scan(self, prompt: Any) -> Run:
        """Find structure and shapes alone."""
        request = read(self.model, prompt, generates=False)
        recorder = self._recorder()
        recorder.summaries.has_numbers = False
        watch = self.wanted.watch(self.model, recorder, recorder.receive)
        nnsight_api.run_scan(self.model, self._invoke(request), watch)
        recorder.entered = {}
        return self._run("scan", request, recorder)

    def trace_each(self, prompts: Sequence[Any]) -> list[Run]:
        """Run one forward pass over several prompts; one run for each of them."""
        requests, invokes, rows = self._rows(prompts, generates=False)
        watch = self._watch_rows(rows)
        nnsight_api.run_trace(self.model, invokes, watch)
        self._check_rows(rows)
        return [
            self._run("trace", request, recorder, row=row, beside=requests)
            for row, (request, recorder) in enumerate(zip(requests, rows.recorders, strict=True))
        ]

    def generate_each(self, prompts: Sequence[Any]) -> list[Run]:
        """Generate for several prompts at once; one run for each of them, to its own end."""
        requests, invokes, rows = self._rows(prompts, generates=True)
        watch = self._watch_rows(rows)
        self._check_budgets(requests)
        ids = self._ids(invokes, watch)
        self._check_rows(rows)
        self._check_steps(rows.recorders[0])
        start = self._start(ids, rows.width)
        runs = []
        for row, (request, recorder) in enumerate(zip(requests, rows.recorders, strict=True)):
            text = self._text(None if ids is None else ids[row : row + 1], recorder, start, 1)
            runs.append(self._run("generate", request, recorder, text, row, requests))
        return runs

    def _recorder(self) -> Recorder:
        recorder = self.wanted.recorder(self.model, self.reached)
        recorder.keeps = self.wanted.keeps
        recorder.summaries.holds = self.holds
        return recorder

    def _rows(
        self, prompts: Sequence[Any], generates: bool
    ) -> tuple[list[Request], list[nnsight_api.Invoke], Rows]:
        """Return what each prompt asks for, the invokes of all, and what takes their values.

        Interventions of their own give prompts invokes of their own, else they are one batch.
        """
        prompts = list(prompts)
        if self.remote is not None:
            raise UsageError(
                "trace_each and generate_each are not there with --nnsight-remote; capture each "
                "prompt by itself"
            )
        requests = [read(self.model, prompt, generates) for prompt in prompts]
        if len(requests) < 2 or any(request.is_batch for request in requests):
            raise UsageError("give a list of two prompts or more, each a single one")
        if isinstance(self.wanted.intervene, list | tuple):
            invokes = self._invokes(requests, self.wanted.intervene)
        else:
            invokes = [self._invoke(read(self.model, prompts, generates))]
        rows = Rows([self._recorder() for _ in requests], ())
        rows.parameters = rows.recorders[0].parameters[ROOT]
        mask = invokes[0].keywords.get("attention_mask") if len(invokes) == 1 else None
        rows.mask = None if mask is None else mask.bool()
        return requests, invokes, rows

    def _watch_rows(self, rows: Rows) -> nnsight_api.Watch:
        """Watch a batch, and what an encoder is given: it may run before the model is called."""
        names = [path for path in ("encoder", "model.encoder") if path in rows.recorders[0].classes]
        return self.wanted.watch(self.model, rows.recorders[0], rows.receive, *names)

    def _invokes(self, requests: Sequence[Request], own: Sequence[Any]) -> list[nnsight_api.Invoke]:
        if len(own) != len(requests):
            raise UsageError(
                f"intervene has {len(own)} functions for {len(requests)} prompts; give one for "
                "each, None for none"
            )
        return [self._invoke(request, f) for request, f in zip(requests, own, strict=True)]

    def _invoke(self, request: Request, intervene: Any = ...) -> nnsight_api.Invoke:
        function = self.wanted.intervene if intervene is ... else intervene
        return nnsight_api.Invoke(
            request.arguments,
            request.keywords,
            None if function is None else of_all(function),
            None if self.wanted.at is None else self.wanted.at.for_nnsight(self._most_steps()),
            waits=function is not None and takes(function) == 3,
        )

    def _most_steps(self) -> int:
        most = self.wanted.settings.get("max_new_tokens")
        return most if isinstance(most, int) else 0

    def _check_budgets(self, requests: Sequence[Request]) -> None:
        module = nnsight_api.torch_module(self.model)
        if not bool(getattr(module, "can_generate", lambda: False)()):
            raise UsageError(f"{type(module).__name__} cannot generate; use nnsight_capture.trace")
        for request in requests:
            check_budget(module, request, self.wanted.settings["max_new_tokens"])

    def _ids(self, invokes: list[nnsight_api.Invoke], watch: nnsight_api.Watch) -> Any:
        """Generate; return the ids of each row with those of the prompt, ``None`` if stopped."""
        quiet = quiet_greedy(nnsight_api.torch_module(self.model), self.wanted.settings)
        with seeded(self.wanted.seed):
            ids = nnsight_api.run_generate(self.model, invokes, quiet, watch)
        return None if ids is None else getattr(ids, "sequences", ids).detach().cpu()

    def _remote_ids(self, request: Request, recorder: Recorder) -> Any:
        """Generate where the model is."""
        assert self.remote is not None
        self.wanted.refuse_remotely()
        wanted, module = self.wanted, nnsight_api.torch_module(self.model)
        quiet = quiet_greedy(module, wanted.settings)
        return self.remote.run(self.model, request, recorder, wanted.intervene, quiet, wanted.seed)

    def _text(self, ids: Any, recorder: Recorder, start: int, prompts: int) -> Generated:
        settings = self.wanted.settings
        return generated(self.model, ids, recorder.margins, start, settings, prompts)

    def _start(self, ids: Any, width: int) -> int:
        """Return how many of the returned ids are not new: the prompt, or the start token."""
        module = nnsight_api.torch_module(self.model)
        is_pair = getattr(getattr(module, "config", None), "is_encoder_decoder", False)
        return first_new(module, ids) if is_pair and ids is not None else width

    def _check_steps(self, recorder: Recorder) -> None:
        for steps, option in ((self.wanted.steps, "steps"), (self.wanted.at, "intervene_at")):
            if steps is not None:
                steps.check(recorder.step, option)
        self.wanted.check_operations(recorder.operations)

    def _check_rows(self, rows: Rows) -> None:
        if rows.unclear:
            raise UsageError(rows.unclear)
        self.wanted.check_operations(rows.recorders[0].operations)

    def _run(
        self,
        kind: str,
        request: Request,
        recorder: Recorder,
        text: Generated | None = None,
        row: int | None = None,
        beside: Sequence[Request] = (),
    ) -> Run:
        model, environment = self.identify()
        if self.remote is not None:
            environment = self.remote.environment(environment, recorder)
        prompt = self._prompt(request, recorder, row, beside)
        if kind == "scan":
            prompt = asked(self.model, request, prompt)
        ended = row is not None and text is not None and text.token_ids[0]
        steps = len(ended) if ended else None
        calls = recorder.finish(steps)
        check_called(recorder.captured, [call.path for call in calls])
        return Run(kind, model, environment, prompt, text, calls, kept=recorder.kept)

    def _prompt(
        self, request: Request, recorder: Recorder, row: int | None, beside: Sequence[Request]
    ) -> Prompt:
        """Record what went in, by what really entered the model.

        Prompts with interventions of their own may take values from each other: the record of one
        names the others.
        """
        intervene, asked = self.wanted.intervene, self._asked()
        if row is not None and isinstance(intervene, list | tuple):
            intervene = intervene[row]
            asked["beside"] = str([other.asked for other in beside if other is not request])
        token_ids = prompt_ids(recorder.entered or {}, request)
        others = {k: v for k, v in (recorder.entered or {}).items() if k != "input_ids"}
        return Prompt(
            text=request.text,
            token_ids=token_ids,
            pieces=pieces_of(self.model, token_ids),
            tensors={name: rows_of(tensor) for name, tensor in sorted(others.items())},
            digests=prompt_digests(recorder.digests, request),
            is_batch=request.is_batch,
            generation=plain(asked),
            intervention=intervention_name(intervene),
            intervention_code=intervention_code(intervene),
        )

    def _asked(self) -> dict[str, Any]:
        """Return what a record keeps of how a run was asked for."""
        wanted = self.wanted
        told = dict(wanted.settings)
        if wanted.gradients is not None:
            told |= wanted.gradients.settings()
        own = {"seed": wanted.seed, "steps": wanted.steps, "intervene_at": wanted.at}
        return told | {name: value for name, value in own.items() if value is not None}
