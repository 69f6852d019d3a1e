"""What a drift is judged by, and what the judgement is."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.model_changes import Fingerprints
from pytest_nnsight.diagnose.origin import DriftOrigin
from pytest_nnsight.run import Run


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a drift is there, what that is concluded from, and whether it is beyond doubt."""

    name: str
    evidence: str
    is_certain: bool = True


@dataclass(frozen=True, slots=True)
class Evidence:
    """All there is to judge by."""

    golden: Run
    received: Run
    comparison: Comparison
    origin: DriftOrigin
    before: Fingerprints | None
    now: Fingerprints | None


def first_of(changes: list[str], count: int = 3) -> str:
    return "; ".join(changes[:count]) + (" ..." if len(changes) > count else "")
