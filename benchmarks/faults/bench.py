"""Plant every fault in every model, and run every strategy."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, TypeVar

from benchmarks.faults import (
    attention,
    checkpoints,
    configuration,
    generation,
    interventions,
    masks,
    padding,
    positions,
    precision,
    prompts,
    structure,
    weights,
)
from benchmarks.faults.captured import Captured, differences
from benchmarks.faults.fault import Benign, Fault, faults_in
from benchmarks.faults.ours import Answer, answer
from benchmarks.faults.probe import Probe
from benchmarks.faults.result import Result
from benchmarks.faults.strategies import LINES, strategies
from benchmarks.faults.subject import Golden, Say, Subject
from pytest_nnsight.summary.fingerprint import fingerprint_parameters

Change = TypeVar("Change", Fault, Benign)
OURS, OURS_WITH_BITS = "ours", "ours, with bits"


def all_faults() -> list[Fault]:
    """Return every fault, by subject."""
    return faults_in(
        weights,
        checkpoints,
        configuration,
        positions,
        masks,
        padding,
        prompts,
        precision,
        structure,
        attention,
        generation,
        interventions,
    )


def chosen_probes(subject: Subject, kinds: Sequence[str], turn: int, every: bool) -> list[Probe]:
    """Return one probe of each kind, with short and long prompts in turn; or all probes."""
    fitting = [probe for probe in subject.probes if probe.kind in kinds]
    if every:
        return fitting
    there = dict.fromkeys(probe.kind for probe in fitting)
    groups = [[probe for probe in fitting if probe.kind == kind] for kind in there]
    return [group[(turn + location) % len(group)] for location, group in enumerate(groups)]


def plant_all(
    subject: Subject,
    only: Sequence[str],
    every_probe: bool,
    say: Say,
    show: Callable[[Result], None],
) -> list[Result]:
    """Plant all faults in one model, and check after each that the clean model is unchanged."""
    fitting = {
        turn: fault
        for turn, fault in enumerate(all_faults())
        if fault.fits(subject.module, subject.roles) and is_chosen(fault.name, only)
    }
    results = run_all(subject, fitting, plant, every_probe, say, show)
    if fingerprint_parameters(subject.module) != subject.weights:
        raise RuntimeError(f"the weights of {subject.name} are not what they were")
    return results


def is_chosen(name: str, only: Sequence[str]) -> bool:
    """Tell whether any of the globs matches, or there is none."""
    return not only or any(fnmatch(name, glob) for glob in only)


def run_all(
    subject: Subject,
    changes: Mapping[int, Change],
    run: Callable[[Subject, Change, Probe], Result],
    every_probe: bool,
    say: Say,
    show: Callable[[Result], None],
) -> list[Result]:
    """Make one change after another, and check after each that the clean model is unchanged.

    The keys of ``changes`` are their numbers among all; short and long probes alternate by them.
    """
    results = []
    for number, (turn, change) in enumerate(changes.items(), 1):
        if number % 10 == 1 or number == len(changes):
            say(f"{subject.name}: {type(change).__name__.lower()} {number} of {len(changes)}\n")
        for probe in chosen_probes(subject, change.kinds, turn, every_probe):
            results.append(run(subject, change, probe))
            show(results[-1])
        check_unchanged(subject, change.name)
    return results


def check_unchanged(subject: Subject, after: str) -> None:
    """Raise `RuntimeError` if the clean model no longer computes the same bits."""
    golden = subject.golden(subject.probes[0])
    again = Captured.of(golden.probe.of(subject.capture()))
    changed = [d.key[0] for d in differences(golden.captured, again) if d.bits]
    if changed:
        raise RuntimeError(f"{subject.name} is changed at {changed[0]} after: {after}")


def plant(subject: Subject, fault: Fault, probe: Probe) -> Result:
    """Plant one fault, run, and judge; an exception is stored in the result."""
    start = time.perf_counter()
    try:
        with subject.variant(probe) as variant:
            if fault.golden is not None:
                variant.probe = fault.golden(variant)
            golden = subject.golden(variant.probe)
            fault.change(variant)
            received = Captured.of(variant.run())
            fingerprint = functools.partial(fingerprint_parameters, variant.module)
            return judge(subject, golden, received, fingerprint, fault, start)
    except Exception as error:
        return broken(subject, probe, fault.name, error)


def broken(subject: Subject, probe: Probe, name: str, error: Exception) -> Result:
    """Return the result of a case that raised."""
    message = f"{type(error).__name__}: {error}"
    return Result(subject.name, probe.name, probe.kind, name, 0.0, None, {}, {}, error=message)


def judge(
    subject: Subject,
    golden: Golden,
    received: Captured,
    fingerprint: Callable[[], Mapping[str, str]],
    planted: Fault | str,
    start: float,
) -> Result:
    """Run every strategy on one pair of runs; ``planted`` is a fault or a benign change's name."""
    fault = planted if isinstance(planted, Fault) else None
    line = LINES[subject.options.dtype]
    apart = differences(golden.captured, received)
    rows = strategies(line)
    verdicts = {row.name: row.judge(golden.captured, received, apart) for row in rows}
    ours = answer(golden.run, received.run, subject.weights, fingerprint)
    named = {key: None if v is None else (v.found, v.named) for key, v in verdicts.items()}
    named |= {OURS: (ours.found, ours.where), OURS_WITH_BITS: (ours.found_with_bits, ours.where)}
    sizes = {row.name: row.bytes_a_module(golden.captured) for row in rows}
    sizes |= dict.fromkeys((OURS, OURS_WITH_BITS), len(golden.text) / len(golden.run.calls))
    return Result(
        model=subject.name,
        probe=golden.probe.name,
        kind=golden.probe.kind,
        name=planted.name if isinstance(planted, Fault) else planted,
        size=max((d.worst for d in apart), default=0.0),
        first_differing=next((d.key[0] for d in apart if d.bits), None),
        verdicts=named,
        bytes_a_module=sizes,
        starts=fault.paths(subject.roles) if fault else (),
        causes=tuple(sorted(fault.causes)) if fault else (),
        seconds=time.perf_counter() - start,
        **_ours(ours, fault),
    )


def _ours(ours: Answer, fault: Fault | None) -> dict[str, Any]:
    return {
        "where": ours.where,
        "cause": ours.cause,
        "evidence": ours.evidence,
        "rel": ours.rel,
        "noise": ours.noise,
        "is_certain": ours.is_certain,
        "is_cause_right": fault is not None and ours.has_cause(fault.causes),
    }
