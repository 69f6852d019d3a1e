"""Measure a trace and a generation of all modules against the plain model."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.row import Row
from benchmarks.subject import Subject, exactly
from benchmarks.turns import ratio, take_turns

TOKENS = 256
PROMPT = 32
TRACE_GOALS = {1: 1.17, 2: 1.22}
GENERATE_GOALS = {1: 1.20, 2: 1.25}
OUTPUTS = "the same of outputs alone, inputs=False"


def measure(model: str, rounds: int) -> Iterator[Row]:
    """Yield the rows for one thread and two."""
    subject = Subject.load(model)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        yield from traces(subject, rounds, threads)
        yield from generations(subject, rounds, threads)
    torch.set_num_threads(1)


def traces(subject: Subject, rounds: int, threads: int) -> Iterator[Row]:
    """Compare a trace with the plain forward and with nnsight's own cache."""
    ids = subject.prompt(TOKENS)
    ways = (
        lambda: subject.forward(ids),
        lambda: subject.capture.trace(ids),
        lambda: subject.capture.trace(ids, inputs=False),
        lambda: subject.cache(ids),
        lambda: subject.cache(ids, inputs=True),
        lambda: subject.hand_over(ids),
    )
    plain, ours, outputs, cache, both, bare = take_turns(ways, rounds, threads)
    calls = len(subject.capture.trace(ids).calls)
    name = f"trace of {TOKENS} tokens, all {calls} calls"
    yield Row(f"{name}, over a plain forward", ratio(ours, plain), TRACE_GOALS[threads], threads)
    yield Row(OUTPUTS, ratio(outputs, plain), TRACE_GOALS[threads], threads)
    yield Row(f"{name}, over tracer.cache()", ratio(ours, cache), 1.05, threads)
    yield Row(
        "  the same, over tracer.cache(include_inputs=True)", ratio(ours, both), None, threads
    )
    yield Row("  tracer.cache() over a plain forward", ratio(cache, plain), None, threads)
    yield Row("  every value handed over and dropped, over it", ratio(bare, plain), None, threads)


def generations(subject: Subject, rounds: int, threads: int) -> Iterator[Row]:
    """Compare generations, every module at every step, with plain ones."""
    ids = subject.prompt(PROMPT)
    for steps in (24, 64):
        ways = (
            lambda steps=steps: subject.generate(ids, steps),
            lambda steps=steps: subject.capture.generate(ids, **exactly(steps)),
            lambda steps=steps: subject.capture.generate(ids, inputs=False, **exactly(steps)),
            lambda steps=steps: subject.hand_over(ids, steps),
        )
        plain, ours, outputs, bare = take_turns(ways, max(3, rounds // 2), threads)
        name = f"generate {steps} tokens, every module at every step, over plain generate"
        yield Row(name, ratio(ours, plain), GENERATE_GOALS[threads], threads)
        yield Row(OUTPUTS, ratio(outputs, plain), GENERATE_GOALS[threads], threads)
        yield Row("  every value handed over and dropped", ratio(bare, plain), None, threads)
