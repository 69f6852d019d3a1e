"""Run a capture on a server, which returns summaries of the values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture import remote_body
from pytest_nnsight.capture.callbacks import parameter_count
from pytest_nnsight.capture.prompts import PreparedPrompt
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.errors import RemoteError
from pytest_nnsight.run import ROOT, Environment, Summary, numbers_per_token
from pytest_nnsight.summary.rows import pack_rows
from pytest_nnsight.summary.summarizer import Measured, exact_summary, summaries_of


@dataclass(frozen=True, slots=True)
class Remote:
    """Where traces run: ``where`` is ``True`` for NDIF, a host, or ``local`` to rehearse here.

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

        Raise `RemoteError` with one line if the run fails.
        """
        plan = _plan(recorder, intervene, seed)
        modules = [] if intervene is None else [intervene.__module__]
        job = nnsight_api.RemoteJob(remote_body.begin, remote_body.end, plan, modules)
        keywords = prepared.keywords | dict(generation or {})
        is_generation = generation is not None
        with self.shown():
            returned = nnsight_api.run_remote(
                model, prepared.arguments, keywords, job, self.where, self.verbose, is_generation
            )
        if returned is None:
            raise RemoteError(
                "the remote trace ended before the model had run, and returned nothing; "
                "an intervention may not stop it"
            )
        recorder.entered = returned["entered"]
        recorder.margins = [torch.tensor(margins) for margins in returned["margins"]]
        recorder.replay(returned["events"], _summaries(returned))
        recorder.server = returned["environment"]
        return returned["ids"]

    def environment(self, local: Environment, recorder: Recorder) -> Environment:
        """Return the environment of the server; in a rehearsal that of this process, ``local``."""
        server = recorder.server
        if self.where == "local" or not server:
            return local
        return replace(
            local,
            versions={**local.versions, **{n: server[n] for n in ("torch", "transformers")}},
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
    input_paths = captured if recorder.input_steps else set()
    return {
        "outputs": sorted({*captured, ""}),
        "inputs": sorted({*input_paths, ""}),
        "captured": captured,
        "input_steps": recorder.input_steps,
        "parameters": {p: recorder.parameters[p or ROOT] for p in {*input_paths, ""}},
        "intervene": intervene,
        "parameter_count": 0 if intervene is None else parameter_count(intervene),
        "seed": seed,
    }


def _summaries(returned: Mapping[str, Any]) -> dict[int, Summary]:
    """Split the numbers of all tensors, and return the summary of each by its index."""
    measured, others, packed = [], {}, {}
    row = start = 0
    for index, (shape, dtype, tokens, exact, rows) in enumerate(returned["tensors"]):
        if tokens:
            size = tokens + tokens * numbers_per_token(tokens)
            rest = returned["rests"][start : start + size].double()
            numbers = torch.cat([returned["heads"][row], rest])[None]
            measured.append(Measured(tuple(shape), dtype, [index], numbers))
            row, start = row + 1, start + size
        elif exact is not None:
            others[index] = exact_summary(tuple(shape), dtype, exact)
        else:
            others[index] = Summary(tuple(shape), dtype)
        if rows is not None:
            packed[index] = pack_rows(rows.numpy())
    summaries = summaries_of(measured) | others
    return summaries | {i: summaries[i]._replace(rows=rows) for i, rows in packed.items()}
