"""Define the strategies for testing a model; each one is a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.faults.captured import Captured, Difference

COUNTS_FROM = 1e-5
"""The relative change of one token from which a fault counts, in any dtype."""
LINES = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 5e-3}
"""The tolerance for one token of full tensors, by dtype: the noise of equal models."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Hold the answer of one strategy for a pair of runs; ``named`` is its first module."""

    found: bool
    named: str | None = None


@dataclass(frozen=True, slots=True)
class Strategy:
    """Define one row; ``judge`` returns ``None`` if it does not apply, as without logits."""

    name: str
    judge: Callable[[Captured, Captured, Sequence[Difference]], Verdict | None]
    bytes_a_module: Callable[[Captured], float]


def strategies(line: float) -> tuple[Strategy, ...]:
    """Return the rows other than our own; ``line`` is the tolerance for one token."""
    return (
        Strategy("next token equal", _next_token, lambda c: 8 / len(c.calls)),
        Strategy("16 greedy tokens equal", _tokens, lambda c: 16 * 8 / len(c.calls)),
        Strategy("3x3 slice of the logits, 1e-4", _slice, lambda c: 36 / len(c.calls)),
        _a_module("mean std min max, rtol 1e-3", lambda d: d.plain > 1e-3, lambda _: 24),
        _a_module("mean std min max, rtol 1e-5", lambda d: d.plain > 1e-5, lambda _: 24),
        _a_module("mean std min max over std, 1e-5", lambda d: d.scaled > 1e-5, lambda _: 24),
        _a_module("first 8 values, 1e-4", lambda d: d.first > 1e-4, lambda _: 32),
        _a_module("full, whole tensor 1e-5", lambda d: d.whole > 1e-5, _full),
        _a_module(f"full, worst token {line:g}", lambda d: d.worst > line, _full),
        _a_module("full, bit-equal", lambda d: d.bits, _full),
    )


def _full(captured: Captured) -> float:
    return captured.full_bytes / len(captured.calls)


def _a_module(
    name: str, differs: Callable[[Difference], bool], size: Callable[[Captured], float]
) -> Strategy:
    """Return a strategy that checks each call separately and names the first that differs."""

    def judge(_: Captured, __: Captured, differences: Sequence[Difference]) -> Verdict:
        first = next((d for d in differences if differs(d)), None)
        return Verdict(first is not None, first.key[0] if first else None)

    return Strategy(name, judge, size)


def _next_token(golden: Captured, received: Captured, _: Sequence[Difference]) -> Verdict | None:
    if golden.next_token is None:
        return None
    return Verdict(golden.next_token != received.next_token)


def _tokens(golden: Captured, received: Captured, _: Sequence[Difference]) -> Verdict | None:
    if golden.run.generated is None or received.run.generated is None:
        return None
    return Verdict(golden.run.generated.token_ids != received.run.generated.token_ids)


def _slice(golden: Captured, received: Captured, _: Sequence[Difference]) -> Verdict | None:
    before, now = golden.head, received.head
    if before is None:
        return None
    if now is None:
        return Verdict(True)
    old, new = before[0, :3, :3].float(), now[0, :3, :3].float()
    is_close = old.shape == new.shape and torch.allclose(old, new, rtol=0, atol=1e-4)
    return Verdict(not is_close)
