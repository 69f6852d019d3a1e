"""Runs of several ways to do one thing, in turn, and the ratios of what they took.

A B A B ... in one process, so that a noisy machine slows all alike; a ratio is the median over the
rounds of what one took against the other in the same round. With one thread what counts is the
processor's time, which does not hold what other programs took; with two it is the clock's.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def take_turns(
    ways: Sequence[Callable[[], Any]], rounds: int, threads: int = 1
) -> list[list[float]]:
    """Return the seconds of each way in each round, after one run of each to warm up."""
    clock = time.process_time if threads == 1 else time.perf_counter
    taken: list[list[float]] = [[] for _ in ways]
    for way in ways:
        way()
    for _ in range(rounds):
        for way, into in zip(ways, taken, strict=True):
            gc.collect()
            start = clock()
            way()
            into.append(clock() - start)
    return taken


def ratio(ours: Sequence[float], plain: Sequence[float]) -> float:
    """Return the median over rounds of ours against plain."""
    return statistics.median(a / b for a, b in zip(ours, plain, strict=True))
