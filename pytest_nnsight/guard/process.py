"""What holds for the whole process: torch's switches, and the states of random generators."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pytest_nnsight.guard.leak import Leak, Restore

# What it is, how to read it, how to set it.
_SWITCHES: tuple[tuple[str, Callable[[], Any], Callable[[Any], Any]], ...] = (
    ("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    ("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("default device", torch.get_default_device, torch.set_default_device),
    ("number of threads", torch.get_num_threads, torch.set_num_threads),
    (
        "float32 matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    (
        "deterministic algorithms",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    ("anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
)


def snapshot_switches(model: Any) -> Restore:
    """Keep the settings of torch that change what any model computes."""
    before = [read() for _, read, _ in _SWITCHES]

    def restore() -> Iterator[Leak]:
        for (name, read, write), value in zip(_SWITCHES, before, strict=True):
            now = read()
            if now != value:
                write(value)
                yield Leak(f"torch's {name} {now}, back to {value}")

    return restore


def snapshot_seeds(model: Any) -> Restore:
    """Keep the states of random generators; to draw from one is no leak, so nothing is said."""
    state = random.getstate()
    numpy = sys.modules.get("numpy")
    of_numpy = None if numpy is None else numpy.random.get_state()
    of_torch = torch.get_rng_state()
    of_cuda = torch.cuda.get_rng_state_all() if _uses_cuda() else None

    def restore() -> Iterator[Leak]:
        random.setstate(state)
        if numpy is not None:
            numpy.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
        if of_cuda is not None:
            torch.cuda.set_rng_state_all(of_cuda)
        yield from ()

    return restore


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
