"""How much drift is allowed: by dtype, by measured noise, or by the tolerance of the test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_nnsight.compare.distance import SAME, Distance
from pytest_nnsight.compare.model_changes import is_same_model
from pytest_nnsight.compare.pooling import WINDOW
from pytest_nnsight.compare.timeline import LeafKey, Value
from pytest_nnsight.run import Run, Summary, numbers_per_token, token_count

TOLERANCES = {
    "float64": 1e-6,
    "float32": 1e-5,
    "float16": 8e-3,
    "bfloat16": 6e-2,
}
"""How far equal models may differ on other kernels, by the coarsest dtype of the two runs."""
FLOORS = {"float64": 1e-6, "float32": 1e-5, "float16": 5e-4, "bfloat16": 4e-3}
"""What is always allowed in a golden whose noise was measured."""
_COARSEST = 1e-1  # for a dtype that is not listed
_COARSE_FROM = 1e-4  # between the tolerances of float32 and of half types
_TIMES_NOISE = 5.0
ONSETS = {"float32": 5e-6, "float16": 2e-5, "bfloat16": 1e-4}
"""How far sums in another order move a value whose inputs are equal.

For one token in float32 (1.5e-6 was the largest seen), over all tokens in half types.
"""
ROUNDINGS = {"float16": 8e-4, "bfloat16": 6e-3}
"""The same if partial sums are rounded to a half type: 1.5 times its last bit.

Allowed only in a model whose weights, config and modules are known to be the same.
"""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The drift that is allowed, relative to a token's norm.

    ``rel`` is the tolerance of the test if ``is_explicit``, otherwise the default of the dtype.
    ``floor`` is what is always allowed in a golden whose noise was measured, else ``None``.
    ``onset`` is the limit for a value whose inputs are all equal bit by bit, on machines that
    should give equal bits: no noise has gathered there yet. Half types enlarge any change to the
    size of their noise, so that only its onset can be judged.
    """

    rel: float
    is_explicit: bool = False
    floor: float | None = None
    onset: float | None = None

    def allowed_for(self, summary: Summary) -> float:
        """Return the drift that is allowed for one tensor of a golden, from its measured noise."""
        if self.is_explicit or self.floor is None:
            return self.rel
        return max(self.floor, _TIMES_NOISE * summary.noise)

    def is_exceeded(self, distance: Distance, summary: Summary) -> bool:
        """Tell whether a drift is more than is allowed, over all tokens or for one of them.

        The largest of many estimates from few samples is too high: from one sample, 5 times. The
        default of float32 and float64 covers a part of that: there the true drift of the worst
        token on other kernels was 8e-6 at most, and its estimate from one number 1.7e-5.
        """
        allowed, tokens = self.allowed_for(summary), token_count(summary.shape)
        is_fine = not self.is_explicit and allowed == self.rel < _COARSE_FROM
        is_coarse = not self.is_explicit and allowed >= _COARSE_FROM
        spread = 3.0 if is_coarse else 1.0  # of a single token over all tokens, in half types
        few = 1.0 + (spread - 1.0) / max(tokens, 1)  # all of them may be the worst

        def limit(samples: int) -> float:
            if is_fine:
                return allowed * (1.0 + 2.0 / samples if samples < WINDOW else 1.0)
            largest = math.sqrt(2.0 * math.log(50.0 * tokens) / samples)
            return allowed * spread * (1.0 + largest)

        samples = numbers_per_token(tokens)
        return (
            distance.rms > allowed * few
            or distance.worst > limit(samples)
            or distance.pooled > limit(samples * WINDOW)
        )

    def onsets(
        self, values: Sequence[Value], distances: Mapping[LeafKey, Distance]
    ) -> dict[LeafKey, float]:
        """Return the limit of each value where a drift begins that is not exceeded otherwise.

        A drift with equal inputs begins there if it is more than sums in another order explain.
        """
        if self.onset is None:
            return {}
        in_time, found = [distances.get(value.key, SAME) for value in values], {}
        for value, distance in zip(values, in_time, strict=True):
            is_coarse = self.rel >= _COARSE_FROM
            size = distance.rms if is_coarse else max(distance.rms, distance.worst)
            begins = size > self.onset and all(in_time[index].is_same for index in value.fed_by)
            if begins and not self.is_exceeded(distance, value.leaf.summary):
                found[value.key] = self.onset
        return found


def tolerance_for(golden: Run, received: Run, bits_are_expected: bool) -> Tolerance:
    """Return the tolerance of the test, or the default of the coarser dtype of the two runs."""
    if received.tolerance is not None:
        return Tolerance(received.tolerance, is_explicit=True)
    dtypes = {golden.environment.dtype, received.environment.dtype}
    known = {**dict.fromkeys(dtypes, _COARSEST), "none": 1e-5, **TOLERANCES}
    coarsest = max(dtypes, key=lambda name: known[name])
    floor = FLOORS.get(coarsest, _COARSEST) if golden.calibration else None
    knows_inputs = golden.kind != "tensors"
    limits = ROUNDINGS if coarsest in ROUNDINGS and is_same_model(golden, received) else ONSETS
    onset = limits.get(coarsest) if bits_are_expected and knows_inputs else None
    return Tolerance(known[coarsest], floor=floor, onset=onset)


def has_half_type(golden: Run, received: Run) -> bool:
    """Tell whether one of two runs computed in a half type.

    Only then the allowed drift depends on whether the weights are known to be the same.
    """
    return not {golden.environment.dtype, received.environment.dtype}.isdisjoint(ROUNDINGS)
