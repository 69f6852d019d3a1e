"""The evidence that the rules of a diagnosis judge by, and the cause that a rule returns."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.model_changes import Fingerprints
from pytest_nnsight.diagnose.origin import DriftOrigin
from pytest_nnsight.run import Run


@dataclass(frozen=True, slots=True)
class Cause:
    """Name the cause of a drift; ``evidence`` is the text that supports it."""

    name: str
    evidence: str
    is_certain: bool = True


@dataclass(frozen=True, slots=True)
class Evidence:
    """Hold everything that a rule may judge by.

    The weights are fingerprints by parameter, ``None`` where unknown.
    """

    golden: Run
    received: Run
    comparison: Comparison
    origin: DriftOrigin
    golden_weights: Fingerprints | None
    received_weights: Fingerprints | None


def join_first(changes: list[str], limit: int = 3) -> str:
    """Join the first ``limit`` changes into one text; ``...`` stands for the others."""
    return "; ".join(changes[:limit]) + (" ..." if len(changes) > limit else "")
