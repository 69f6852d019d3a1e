"""The record of one difference between two runs."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nnsight.compare.distance import SAME, Distance


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between golden and received.

    ``kind`` is ``values``, ``container``, ``shape``, ``dtype``, ``class``, ``order``, ``missing``,
    ``added``, ``ids``, ``tensors``, ``settings`` or ``kind``. ``position`` is the index of the
    golden's call and ``path`` its module. For ``values``, ``distance`` is the size and ``allowed``
    the limit. A ``note`` is shown and does not fail.
    """

    kind: str
    label: str
    path: str = ""
    distance: Distance = SAME
    allowed: float = 0.0
    expected: str = ""
    received: str = ""
    note: bool = False
    position: int = -1

    @property
    def rel(self) -> float:
        """The relative size: over all tokens, or of one token if only that is too large."""
        distance = self.distance
        if distance.rms > self.allowed:
            return distance.rms
        return distance.pooled if distance.pooled > self.allowed else distance.worst
