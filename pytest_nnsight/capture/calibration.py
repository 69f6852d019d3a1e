"""Measure the noise of a capture: its drift under changes that should not matter."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pytest_nnsight import nnsight_api
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.run import Run, with_noise


def calibrate(
    model: Any, run: Run, repeat: Callable[[], Run], report: Callable[[str], None]
) -> Run:
    """Return ``run`` with the noise of each tensor: its largest drift under any benign change.

    ``repeat`` makes the capture again, ``report`` prints progress.
    """
    noise: dict[int, float] = {}
    changes = benign_changes(model)
    report(f"\nnnsight: calibrating under {len(changes)} changes")
    for name, change in changes.items():
        with change:
            other = repeat()
        comparison = compare(run, other)
        for (position, at), distance in comparison.values.items():
            leaves = run.calls[position].leaves
            summary = next(leaf.summary for leaf in leaves if leaf.at == at)
            if distance.rms < 1:
                noise[id(summary)] = max(noise.get(id(summary), 0.0), distance.rms)
        report(f" ... {name} {comparison.noise:.1e}")
    report("\n")
    calls = with_noise(run.calls, lambda _, leaf: float(f"{noise.get(id(leaf.summary), 0.0):.2g}"))
    return replace(run, calls=calls, calibration=tuple(changes))


def benign_changes(model: Any) -> dict[str, AbstractContextManager[None]]:
    """Return the changes that this machine and model allow, and that should change no value."""
    module = nnsight_api.torch_module(model)
    changes: dict[str, AbstractContextManager[None]] = {}
    current, cores = torch.get_num_threads(), os.cpu_count() or 1
    for threads in sorted({1, 2, cores} - {current}):
        name = f"{threads} thread{'s' if threads > 1 else ''}"
        changes[name] = _changed(torch.set_num_threads, threads, current)
    attention = getattr(getattr(module, "config", None), "_attn_implementation", None)
    set_attention = getattr(module, "set_attn_implementation", None)
    has_sdpa = bool(getattr(module, "_supports_sdpa", False))
    if set_attention is not None and (attention == "sdpa" or (attention == "eager" and has_sdpa)):
        other = "eager" if attention == "sdpa" else "sdpa"
        changes[f"{other} attention"] = _changed(set_attention, other, attention)
    if attention == "sdpa":
        changes["math attention"] = sdpa_kernel(SDPBackend.MATH)
    return changes


@contextmanager
def _changed(set_value: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    set_value(value)
    try:
        yield
    finally:
        set_value(before)
