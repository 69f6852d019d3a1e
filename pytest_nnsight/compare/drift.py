"""The record of one difference between two runs."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nnsight.compare.distance import SAME, Distance


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between golden and received.

    ``kind`` is ``values``, ``container``, ``shape``, ``dtype``, ``class``, ``order``, ``missing``,
    ``added``, ``ids``, ``tensors``, ``settings`` or ``kind``. ``distance`` is the drift of values
    and ``allowed`` its tolerance. ``position`` is the index of the golden's call, ``path`` its
    module. A ``note`` does not fail.
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
        """The size of the drift: over all tokens, or of one where only that is too large."""
        apart = self.distance
        if apart.rms > self.allowed:
            return apart.rms
        return apart.pooled if apart.pooled > self.allowed else apart.worst
