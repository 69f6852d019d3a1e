"""Measure peak memory for a long prompt: plain forward, trace, nnsight's own cache."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from benchmarks.child import call
from benchmarks.row import Row

TOKENS = 2048


def measure(model: str, rounds: int) -> Iterator[Row]:
    """Yield peaks relative to the plain forward; each run has its own process."""
    peaks: dict[str, list[int]] = {way: [] for way in WAYS}
    for _ in range(max(1, rounds // 2)):
        for way, found in peaks.items():
            found.append(call("benchmarks.memory:peak", model, way))
    plain, ours, cache = (statistics.median(peaks[way]) for way in WAYS)
    name = f"peak memory of a {TOKENS}-token prompt, all modules"
    yield Row(f"{name}, over the plain forward", ours / plain, 1.15, 1)
    yield Row("  tracer.cache() over the plain forward", cache / plain, None, 1)
    yield Row("  the plain forward, with weights and libraries", plain / 1e6, None, 1, "MB", 0)


WAYS = ("forward", "trace", "cache")


def peak(model: str, way: str) -> int:
    """Run once and return the peak memory of this process in bytes."""
    import torch

    from benchmarks.subject import Subject

    torch.set_num_threads(1)
    subject = Subject.load(model)
    ids = subject.prompt(TOKENS)
    if way == "trace":
        subject.capture.trace(ids)
    else:
        getattr(subject, way)(ids)
    return high_water()


def high_water() -> int:
    """Return ``VmHWM`` of Linux, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
