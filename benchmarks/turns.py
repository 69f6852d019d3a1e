"""Time several functions in turn, and compute ratios of their times.

The order is A B A B ... in one process, so that a busy machine slows all of them alike. A ratio is
the median over the rounds, of both times in the same round. With one thread processor time counts,
which excludes other programs; with two threads wall time counts.
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
    """Return the seconds of each function in each round, after one warm-up run."""
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
    """Return the median over rounds of our time divided by the plain time."""
    return statistics.median(a / b for a, b in zip(ours, plain, strict=True))
