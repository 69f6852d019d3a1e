"""How much drift is allowed: by dtype, by measured noise, or by the test's own wish."""

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
"""What equal models may differ by on other kernels, by the coarsest dtype involved."""
FLOORS = {"float64": 1e-6, "float32": 1e-5, "float16": 5e-4, "bfloat16": 4e-3}
"""What is always allowed where the noise was measured."""
_COARSEST = 1e-1
_COARSE_FROM = 1e-4  # between what float32 is allowed and what half types are
_TIMES_NOISE = 5.0
ONSETS = {"float32": 5e-6, "float16": 2e-5, "bfloat16": 1e-4}
"""What sums in another order move where all that they are made of is equal.

For one token in float32, where it was seen to be 1.5e-6 at most; over all tokens in half types.
"""
ROUNDINGS = {"float16": 8e-4, "bfloat16": 6e-3}
"""What partial sums that are rounded to a half type move at once: 1.5 times its last bit.

So much may begin in a model whose weights, config and modules are known to be the same.
"""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The drift that is allowed.

    ``is_own`` tells a test's own tolerance from the default of its dtype. ``floor`` is what is
    always allowed in a golden whose noise was measured; otherwise it is ``None``. ``onset`` is what
    is allowed for a value where all that it was made from is equal bit by bit, and should be. There
    no noise has gathered yet. Half types blow any change up to the size of their noise, so that
    only its beginning tells.
    """

    rel: float
    is_own: bool = False
    floor: float | None = None
    onset: float | None = None

    @property
    def is_coarse(self) -> bool:
        """Whether it is of the size of half types, in which noise gathers."""
        return self.rel >= _COARSE_FROM

    def of(self, summary: Summary) -> float:
        """Return what is allowed for one tensor of a golden, given its measured noise."""
        if self.is_own or self.floor is None:
            return self.rel
        return max(self.floor, _TIMES_NOISE * summary.noise)

    def exceeded(self, distance: Distance, summary: Summary) -> bool:
        """Tell whether a drift is more than is allowed, over all tokens or for one of them."""
        allowed, tokens = self.of(summary), token_count(summary.shape)
        samples = numbers_per_token(tokens)
        few = 1.0 + (self._spread(allowed) - 1.0) / max(tokens, 1)  # all of them may be the worst
        return (
            distance.rms > allowed * few
            or distance.worst > allowed * self._scatter(samples, summary)
            or distance.pooled > allowed * self._scatter(samples * WINDOW, summary)
        )

    def _scatter(self, samples: int, summary: Summary) -> float:
        """Return how far the largest estimate of one token may lie above what is allowed.

        The largest of many estimates from few samples is too high: from one, some 5 times. The
        default for float32 and float64 has room for that in part: there the true drift of the
        worst token on other kernels was 8e-6 at most, its estimate from one number 1.7e-5.
        """
        allowed = self.of(summary)
        if not self.is_own and allowed == self.rel < _COARSE_FROM:
            return 1.0 + 2.0 / samples if samples < WINDOW else 1.0
        tokens = token_count(summary.shape)
        luck = math.sqrt(2.0 * math.log(50.0 * tokens) / samples)
        return self._spread(allowed) * (1.0 + luck)

    def _spread(self, allowed: float) -> float:
        """Return how much farther than all tokens a single one drifts in half types."""
        return 1.0 if self.is_own or allowed < _COARSE_FROM else 3.0

    def onsets(
        self, values: Sequence[Value], distances: Mapping[LeafKey, Distance]
    ) -> dict[LeafKey, float]:
        """Return the values where a drift begins that is within what is allowed otherwise."""
        if self.onset is None:
            return {}
        places = [(value.position, value.leaf.at) for value in values]
        apart = [distances.get(place, SAME) for place in places]
        return {
            place: self.onset
            for place, value, drift in zip(places, values, apart, strict=True)
            if self._begins(drift)
            and all(apart[i].is_same for i in value.fed_by)
            and not self.exceeded(drift, value.leaf.summary)
        }

    def _begins(self, drift: Distance) -> bool:
        """Tell whether a drift from nothing is more than other sums explain."""
        size = drift.rms if self.is_coarse else max(drift.rms, drift.worst)
        return self.onset is not None and size > self.onset


def tolerance_for(golden: Run, received: Run, bits_are_expected: bool) -> Tolerance:
    """Return the test's own tolerance, or that of the coarser dtype of the two runs."""
    if received.tolerance is not None:
        return Tolerance(received.tolerance, is_own=True)
    dtypes = {golden.environment.dtype, received.environment.dtype}
    known = {**dict.fromkeys(dtypes, _COARSEST), "none": 1e-5, **TOLERANCES}
    coarsest = max(dtypes, key=lambda name: known[name])
    floor = FLOORS.get(coarsest, _COARSEST) if golden.calibration else None
    knows_inputs = golden.kind != "tensors"
    lines = ROUNDINGS if coarsest in ROUNDINGS and is_same_model(golden, received) else ONSETS
    onset = lines.get(coarsest) if bits_are_expected and knows_inputs else None
    return Tolerance(known[coarsest], floor=floor, onset=onset)


def has_half_type(golden: Run, received: Run) -> bool:
    """Tell whether one of two runs computed in a half type.

    Only then does it depend on the weights being the same what is allowed where a drift begins.
    """
    return not {golden.environment.dtype, received.environment.dtype}.isdisjoint(ROUNDINGS)
