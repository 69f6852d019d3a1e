"""A capture where the model is not: what is asked for goes there, summaries come back."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture import visitor
from pytest_nnsight.capture.prompts import Request
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.errors import RemoteError, UsageError
from pytest_nnsight.run import ROOT, Call, Environment, Leaf, Summary, numbers_per_token
from pytest_nnsight.summary.summarizer import Measured, exact_summary, summaries_of


@dataclass(frozen=True, slots=True)
class Remote:
    """Where traces run: ``where`` is ``True`` for NDIF, a host, or ``local`` for a rehearsal here.

    ``shown`` shows what nnsight says of the queue; ``verbose`` lets it say so line by line.
    """

    where: bool | str
    shown: Callable[[], AbstractContextManager[object]]
    verbose: bool = False

    def run(
        self,
        model: Any,
        request: Request,
        recorder: Recorder,
        intervene: Callable[..., Any] | None,
        generation: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Any:
        """Run one trace, or a generation; fill the recorder. Return the ids of a generation.

        Raise `RemoteError` with one line for whatever goes wrong on the way.
        """
        errand = nnsight_api.Errand(
            visitor.begin,
            visitor.end,
            _plan(recorder, intervene, seed),
            [] if intervene is None else [intervene.__module__],
        )
        keywords = request.keywords | dict(generation or {})
        is_generation = generation is not None
        with self.shown(), nnsight_api.readable_failures(self.where):
            brought = nnsight_api.run_remote(
                model, request.arguments, keywords, errand, self.where, self.verbose, is_generation
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
        """Return the environment with what the server said of its own; a rehearsal's is known."""
        said = recorder.surroundings
        if self.where == "local" or not said:
            return known
        return replace(
            known,
            versions={**known.versions, **{n: said[n] for n in ("torch", "transformers")}},
            attention=said["attention"],
            threads=int(said["threads"]),
            cpu=said["device"],
            kernels=said["kernels"],
        )


def refuse(**wishes: Any) -> None:
    """Raise `UsageError` for what does not come back from a remote run."""
    for name, value in wishes.items():
        if value:
            raise UsageError(
                f"{name}= is not there with --nnsight-remote, which brings summaries back and no "
                "tensors; leave it out, or run on a model that is here"
            )


def _plan(
    recorder: Recorder, intervene: Callable[..., Any] | None, seed: int | None
) -> dict[str, Any]:
    """Return what the server has to know, as plain values and the function of the test."""
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
    """Make calls of what a remote trace brought back, as `Recorder` does of values."""
    summaries = _summaries(brought)
    waiting: dict[str, list[tuple[str, list[Leaf]]]] = {}
    visits: dict[str, int] = {}
    calls = []
    for path, slot, structure, places in brought["events"]:
        path = path or ROOT
        leaves = [Leaf(at, summaries[number]) for at, number in places]
        if slot == "inputs":
            waiting.setdefault(path, []).append((structure, leaves))
            continue
        inputs, entered = waiting[path].pop() if waiting.get(path) else (None, [])
        visit = visits[path] = visits.get(path, -1) + 1
        made = tuple(entered + leaves)
        calls.append(Call(path, visit, classes[path], structure, made, inputs))
    return tuple(calls)


def _summaries(brought: Mapping[str, Any]) -> dict[int, Summary]:
    """Take the numbers of each tensor apart again, and make its summary."""
    blocks, others = [], {}
    row = at = 0
    for place, (shape, dtype, tokens, exact) in enumerate(brought["tensors"]):
        if tokens:
            size = tokens + tokens * numbers_per_token(tokens)
            rest = brought["rests"][at : at + size].double()
            numbers = torch.cat([brought["heads"][row], rest])[None]
            blocks.append(Measured(tuple(shape), dtype, tokens, [place], numbers))
            row, at = row + 1, at + size
        elif exact is not None:
            others[place] = exact_summary(tuple(shape), dtype, exact)
        else:
            others[place] = Summary(tuple(shape), dtype)
    return summaries_of(blocks) | others
