"""Make every benign change to every model, and run every strategy."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from benchmarks.faults import batches, kernels, padding, reloads
from benchmarks.faults.bench import broken, is_chosen, judge, run_all
from benchmarks.faults.captured import Captured, Key
from benchmarks.faults.fault import Benign, Values, benign_in
from benchmarks.faults.probe import Probe
from benchmarks.faults.result import Result
from benchmarks.faults.subject import Golden, Say, Subject
from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.tensors import run_of_tensors
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.run import Run
from pytest_nnsight.summary.fingerprint import fingerprint_parameters


def all_benign() -> list[Benign]:
    """Return every benign change that stays in one process."""
    return benign_in(kernels, reloads, batches, padding)


def change_all(
    subject: Subject,
    only: Sequence[str],
    every_probe: bool,
    say: Say,
    show: Callable[[Result], None],
) -> list[Result]:
    """Make all benign changes to one model, and check that each is undone."""
    fitting = {
        turn: benign
        for turn, benign in enumerate(all_benign())
        if benign.fits(subject.roles) and is_chosen(benign.name, only)
    }
    return run_all(subject, fitting, change, every_probe, say, show)


def change(subject: Subject, benign: Benign, probe: Probe) -> Result:
    """Make one change, run, and judge; an exception is stored in the result."""
    start = time.perf_counter()
    try:
        with subject.variant(probe) as variant:
            if benign.golden is not None:
                variant.probe = benign.golden(variant)
            golden = subject.golden(variant.probe)
            benign.change(variant)
            run = variant.run()
            module = nnsight_api.torch_module(variant.wrapped or subject.model)
        received = Captured.of(run)
        if benign.align is not None:
            golden, received = aligned(golden, received, benign)
        fingerprint = functools.partial(fingerprint_parameters, module)
        return judge(subject, golden, received, fingerprint, benign.name, start)
    except Exception as error:
        return broken(subject, probe, benign.name, error)


def aligned(golden: Golden, received: Captured, benign: Benign) -> tuple[Golden, Captured]:
    """Cut two runs to dicts of tensors that can be compared, as a user would."""
    assert benign.align is not None
    before, now = benign.align(golden.captured, received)
    run = as_run(before, golden.captured.run)
    text = encode(run)
    cut = Captured(run, keyed(before))
    return (
        Golden(golden.probe, cut, text, decode(text, "golden")),
        Captured(as_run(now, received.run), keyed(now)),
    )


def as_run(values: Values, like: Run) -> Run:
    """Return a run of tensors of the same model."""
    return run_of_tensors(values, like.model, like.environment)


def keyed(values: Values) -> dict[Key, Mapping[str, torch.Tensor]]:
    """Return tensors by call."""
    return {(name, 0): tensors for name, tensors in values.items()}
