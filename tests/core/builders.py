"""Records for the tests of the core: runs of a small model that never ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from pytest_nnsight.run import (
    Call,
    Environment,
    Generated,
    Leaf,
    ModelRecord,
    Prompt,
    Run,
    Summary,
)
from pytest_nnsight.sketch import collect, measure

VERSIONS = {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.2.0", "nnsight": "0.8.1"}
CONFIG = {"hidden_size": 64, "model_type": "gpt2", "rope": {"theta": 1e4, "kind": "default"}}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return standard normal numbers that depend on shape and seed alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def summarize(tensor: torch.Tensor) -> Summary:
    """Summarise one tensor as a capture would."""
    return collect([measure(tensor)])[0]


def make_summary(noise: float = 0.0, shape: tuple[int, ...] = (1, 7, 64), seed: int = 0) -> Summary:
    """Summarise normal numbers with relative ``noise`` on top."""
    return summarize(normal(*shape, seed=seed) + noise * normal(*shape, seed=seed + 1000))


def make_call(path: str = "h.0", summary: Summary | None = None, **changes: Any) -> Call:
    """Return a call with one output tensor."""
    call = Call(path, 0, "Block", "tensor", (Leaf("out", summary or make_summary()),))
    return replace(call, **changes)


def make_environment(**changes: Any) -> Environment:
    """Return the environment of a float32 run on a CPU."""
    return replace(Environment(VERSIONS, "cpu", "float32", "sdpa", 2, "x86_64 AVX2"), **changes)


def make_model(**changes: Any) -> ModelRecord:
    """Return a model with a fingerprint of its weights."""
    return replace(ModelRecord("tiny:gpt2", "GPT2", CONFIG, None, "aaaa", 3), **changes)


def make_run(
    *calls: Call,
    model: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Run:
    """Return a trace of ``calls``, by default of one; ``model`` and ``environment`` are changes."""
    run = Run(
        kind="trace",
        model=make_model(**(model or {})),
        environment=make_environment(**(environment or {})),
        prompt=Prompt("Hello", ((1, 2, 3),)),
        generated=None,
        calls=calls or (make_call(),),
    )
    return replace(run, **changes)


def make_generation(*token_ids: int, **changes: Any) -> Run:
    """Return a run of ``generate`` that produced ``token_ids``."""
    generated = Generated((token_ids,), ("x" * len(token_ids),), (b"\0\0\0\0" * len(token_ids),))
    return make_run(kind="generate", generated=generated, **changes)
