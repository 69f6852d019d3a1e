"""Run a capture on a server: the request is sent there, and summaries come back."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture import remote_body
from pytest_nnsight.capture.prompts import PreparedPrompt
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.errors import RemoteError
from pytest_nnsight.run import ROOT, Call, Environment, Leaf, Summary, numbers_per_token
from pytest_nnsight.summary.summarizer import Measured, exact_summary, summaries_of


@dataclass(frozen=True, slots=True)
class Remote:
    """Where traces run: ``where`` is ``True`` for NDIF, a host, or ``local`` for a rehearsal here.

    ``shown`` returns a context in which nnsight's messages about the queue are shown; with
    ``verbose`` nnsight prints them line by line.
    """

    where: bool | str
    shown: Callable[[], AbstractContextManager[object]]
    verbose: bool = False

    def run(
        self,
        model: Any,
        prepared: PreparedPrompt,
        recorder: Recorder,
        intervene: Callable[..., Any] | None,
        generation: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Any:
        """Run a trace or a generation, and fill the recorder; return the ids of a generation.

        Raise `RemoteError` with one line for whatever fails on the way.
        """
        errand = nnsight_api.RemoteJob(
            remote_body.begin,
            remote_body.end,
            _plan(recorder, intervene, seed),
            [] if intervene is None else [intervene.__module__],
        )
        keywords = prepared.keywords | dict(generation or {})
        is_generation = generation is not None
        with self.shown(), nnsight_api.readable_failures(self.where):
            brought = nnsight_api.run_remote(
                model, prepared.arguments, keywords, errand, self.where, self.verbose, is_generation
            )
        if brought is None:
            raise RemoteError(
                "the remote trace ended before the model had run, and nothing came back; "
                "what intervenes may not stop it"
            )
        recorder.entered = brought["entered"]
        recorder.margins = [torch.tensor(margins) for margins in brought["margins"]]
        recorder.finished = calls_of(brought, recorder.classes)
        recorder.surroundings = brought["surroundings"]
        return brought["ids"]

    def environment(self, known: Environment, recorder: Recorder) -> Environment:
        """Return the environment of the server; in a rehearsal it is the ``known`` one."""
        server = recorder.surroundings
        if self.where == "local" or not server:
            return known
        return replace(
            known,
            versions={**known.versions, **{n: server[n] for n in ("torch", "transformers")}},
            attention=server["attention"],
            threads=int(server["threads"]),
            cpu=server["device"],
            kernels=server["kernels"],
        )


def _plan(
    recorder: Recorder, intervene: Callable[..., Any] | None, seed: int | None
) -> dict[str, Any]:
    """Return what `remote_body` needs, as plain values and the test's function."""
    captured = {"" if path == ROOT else path for path in recorder.captured}
    entering = captured if recorder.captures_inputs else set()
    parameters = {("" if p == ROOT else p): names for p, names in recorder.parameters.items()}
    takes = 0 if intervene is None else len(inspect.signature(intervene).parameters)
    return {
        "outputs": sorted({*captured, ""}),
        "inputs": sorted({*entering, ""}),
        "captured": captured,
        "captures_inputs": recorder.captures_inputs,
        "input_steps": sys.maxsize if recorder.input_steps is None else recorder.input_steps,
        "parameters": {path: parameters[path] for path in {*entering, ""}},
        "intervene": intervene,
        "takes_tracer": takes >= 2,
        "seed": seed,
    }


def calls_of(brought: Mapping[str, Any], classes: Mapping[str, str]) -> tuple[Call, ...]:
    """Build the calls of what a remote trace brought back, as `Recorder` does of values."""
    summaries = _summaries(brought)
    waiting: dict[str, list[tuple[str, list[Leaf]]]] = {}
    visits: dict[str, int] = {}
    calls = []
    for path, slot, structure, indices in brought["events"]:
        path = path or ROOT
        leaves = [Leaf(at, summaries[index]) for at, index in indices]
        if slot == "inputs":
            waiting.setdefault(path, []).append((structure, leaves))
            continue
        inputs, entered = waiting[path].pop() if waiting.get(path) else (None, [])
        visit = visits[path] = visits.get(path, -1) + 1
        made = tuple(entered + leaves)
        calls.append(Call(path, visit, classes[path], structure, made, inputs))
    return tuple(calls)


def _summaries(brought: Mapping[str, Any]) -> dict[int, Summary]:
    """Split the numbers of all tensors, and build the summary of each."""
    measured, others = [], {}
    row = at = 0
    for index, (shape, dtype, tokens, exact) in enumerate(brought["tensors"]):
        if tokens:
            size = tokens + tokens * numbers_per_token(tokens)
            rest = brought["rests"][at : at + size].double()
            numbers = torch.cat([brought["heads"][row], rest])[None]
            measured.append(Measured(tuple(shape), dtype, tokens, [index], numbers))
            row, at = row + 1, at + size
        elif exact is not None:
            others[index] = exact_summary(tuple(shape), dtype, exact)
        else:
            others[index] = Summary(tuple(shape), dtype)
    return summaries_of(measured) | others
