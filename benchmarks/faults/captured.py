"""Hold the tensors of one run, and compute how far those of two runs are apart.

Every strategy is compared with this: full tensors, each token relative to its own norm.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pytest_nnsight.capture.values import describe
from pytest_nnsight.run import NORM_FLOOR, ROOT, Run
from pytest_nnsight.summary.statistics import tokens_of

Key = tuple[str, int]
_FEW = 8


@dataclass(frozen=True, slots=True)
class Features:
    """Hold what other tools store of a tensor: mean, std, min, max, and the first values."""

    statistics: tuple[float, float, float, float]
    first: np.ndarray


@dataclass(frozen=True)
class Captured:
    """Hold a run with the tensors of its calls, in execution order and by location."""

    run: Run
    calls: Mapping[Key, Mapping[str, torch.Tensor]]
    logits: torch.Tensor | None = None

    @classmethod
    def of(cls, run: Run) -> Captured:
        """Take the tensors out of a run, and the logits of the first step."""
        values = {call.key: run.tensors[call.key] for call in run.calls}
        calls = {key: dict(describe(value)[1]) for key, value in values.items()}
        first: Any = run.tensors.get((ROOT, 0))
        return cls(run, calls, first.get("logits") if hasattr(first, "get") else None)

    @functools.cached_property
    def features(self) -> dict[Key, dict[str, Features]]:
        """The features of every tensor."""
        return {
            key: {at: _features(tensor) for at, tensor in tensors.items()}
            for key, tensors in self.calls.items()
        }

    @functools.cached_property
    def full_bytes(self) -> int:
        """The size of all tensors."""
        return sum(t.nbytes for tensors in self.calls.values() for t in tensors.values())

    @property
    def head(self) -> torch.Tensor | None:
        """The logits of the first step; the first output of a model that has none."""
        tensors = self.calls.get((ROOT, 0), {})
        return self.logits if self.logits is not None else next(iter(tensors.values()), None)

    @property
    def next_token(self) -> int | None:
        """The most likely next token; ``None`` for a model without logits."""
        return None if self.logits is None else int(self.logits[0, -1].argmax())


@dataclass(frozen=True, slots=True)
class Difference:
    """Hold how one call differs; infinite if it is missing or has another shape.

    ``worst`` is the largest relative change of one token, ``whole`` that of the whole tensor,
    ``plain`` that of a statistic against itself, ``scaled`` that of a statistic against the std,
    ``first`` the absolute change of the first values.
    """

    key: Key
    bits: bool = False
    whole: float = 0.0
    worst: float = 0.0
    plain: float = 0.0
    scaled: float = 0.0
    first: float = 0.0

    @classmethod
    def total(cls, key: Key) -> Difference:
        """Return the difference for a call that one side does not have."""
        return cls(key, True, *[math.inf] * 5)


def differences(golden: Captured, received: Captured) -> list[Difference]:
    """Compare two runs call by call: those of the golden in order, then the others.

    Tensors are paired by location, so a tensor that exists only in the received run, such as eager
    attention's weights, does not count. If the containers differ, they are paired in order.
    """
    found = []
    for key, before in golden.calls.items():
        pairs = _pairs(before, received.calls.get(key, {}))
        if pairs is None:
            found.append(Difference.total(key))
        elif all(_same_bits(before[at], received.calls[key][to]) for at, to in pairs):
            found.append(Difference(key))
        else:
            found.append(_difference(golden, received, key, pairs))
    return found + [Difference.total(key) for key in received.calls if key not in golden.calls]


def _pairs(
    before: Mapping[str, torch.Tensor], now: Mapping[str, torch.Tensor]
) -> list[tuple[str, str]] | None:
    """Pair the locations of two calls' tensors; ``None`` if one is missing or shapes differ."""
    if len(now) < len(before):
        return None
    others = before if all(at in now for at in before) else now
    pairs = list(zip(before, others, strict=False))
    return pairs if all(before[at].shape == now[to].shape for at, to in pairs) else None


def _difference(
    golden: Captured, received: Captured, key: Key, pairs: list[tuple[str, str]]
) -> Difference:
    before, now = golden.calls[key], received.calls[key]
    old, new = golden.features[key], received.features[key]
    tensors = [_tensor_change(before[at], now[to]) for at, to in pairs]
    features = [_feature_change(old[at], new[to]) for at, to in pairs]
    whole, worst = (max(column) for column in zip(*tensors, strict=True))
    return Difference(key, True, whole, worst, *(max(c) for c in zip(*features, strict=True)))


def _same_bits(old: torch.Tensor, new: torch.Tensor) -> bool:
    return old.dtype == new.dtype and torch.equal(_raw(old), _raw(new))


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    """View a tensor as integers, so that NaN equals NaN and zero differs from minus zero."""
    sizes = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
    flat = tensor.contiguous().reshape(-1)
    return flat if tensor.is_complex() else flat.view(sizes[tensor.element_size()])


def _tensor_change(old: torch.Tensor, new: torch.Tensor) -> tuple[float, float]:
    """Return the relative L2 distance of the whole tensor, and that of the worst token."""
    if old.dtype != new.dtype:
        return math.inf, math.inf
    if not old.is_floating_point():
        return (0.0, 0.0) if torch.equal(old, new) else (math.inf, math.inf)
    before, now = tokens_of(old.float()), tokens_of(new.float())
    norms = torch.linalg.vector_norm(before, dim=1).double()
    apart = torch.linalg.vector_norm(before - now, dim=1).double()
    scale = norms.clamp(min=NORM_FLOOR * float(norms.median()))
    total, off = float(norms.norm()), float(apart.norm())
    whole = _ratio(off, total)
    worst = torch.where(apart == 0, 0.0, apart / scale)
    return whole, float(worst.nan_to_num(math.inf, posinf=math.inf).max())


def _ratio(change: float, scale: float) -> float:
    if change == 0:
        return 0.0
    return math.inf if math.isnan(change) or scale == 0 else change / scale


def _features(tensor: torch.Tensor) -> Features:
    if not tensor.numel():
        return Features((0.0, 0.0, 0.0, 0.0), np.zeros(0))
    values = tensor if tensor.is_floating_point() else tensor.float()
    values = values.float().reshape(-1)
    mean = float(values.sum(dtype=torch.float64)) / values.numel()
    square = float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2 / values.numel()
    low, high = (float(x) for x in values.aminmax())
    std = math.sqrt(max(square - mean * mean, 0.0)) if math.isfinite(square) else math.nan
    return Features((mean, std, low, high), values[:_FEW].double().numpy())


def _feature_change(old: Features, new: Features) -> tuple[float, float, float]:
    changes = [
        0.0 if a == b or (math.isnan(a) and math.isnan(b)) else abs(a - b)
        for a, b in zip(old.statistics, new.statistics, strict=True)
    ]
    plain = max(_ratio(c, abs(a)) for c, a in zip(changes, old.statistics, strict=True))
    scaled = max(_ratio(change, old.statistics[1]) for change in changes)
    with np.errstate(invalid="ignore"):
        off = np.where(old.first == new.first, 0.0, np.abs(old.first - new.first))
    return plain, scaled, float(np.nan_to_num(off, nan=np.inf).max(initial=0.0))
