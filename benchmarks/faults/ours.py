"""Get pytest-nnsight's own answer for a pair of runs: verdict, start and cause."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.faults.models import with_weights
from pytest_nnsight.compare.comparison import Comparison, compare
from pytest_nnsight.diagnose.diagnosis import diagnose
from pytest_nnsight.run import Run


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold our verdict on one pair of runs.

    ``differing_bits`` counts calls whose bits differ although they should be equal; it is ``None``
    if equal bits cannot be expected.
    """

    found: bool
    where: str | None = None
    cause: str | None = None
    evidence: str = ""
    is_certain: bool = True
    rel: float = 0.0
    noise: float = 0.0
    differing_bits: int | None = None

    @property
    def found_with_bits(self) -> bool:
        """Whether drift or differing bits were found."""
        return self.found or bool(self.differing_bits)

    def has_cause(self, causes: frozenset[str]) -> bool:
        """Tell whether the cause is right: all causes of "a and b", one of "a or b"."""
        if self.cause is None:
            return False
        if " or " in self.cause:
            return any(cause in causes for cause in self.cause.split(" or "))
        return all(cause in causes for cause in self.cause.split(" and "))


def answer(
    golden: Run, received: Run, before: Mapping[str, str], now: Callable[[], Mapping[str, str]]
) -> Answer:
    """Compare, and diagnose a drift; ``now`` reads the weights only then."""
    comparison = compare(golden, received)
    weights: Mapping[str, str] = {}
    if not comparison.matches:
        weights = now()
        received = with_weights(received, weights)
        comparison = compare(golden, received)
    bits = _differing_bits(comparison)
    if comparison.matches:
        return Answer(False, noise=comparison.noise, differing_bits=bits)
    found: Any = diagnose(golden, received, comparison, before, weights)
    where = getattr(found, "where", found.start.label.split(" ")[0])
    return Answer(
        True,
        where=re.sub(r"#\d+$", "", where),
        cause=found.cause,
        evidence=found.evidence,
        is_certain=getattr(found, "is_certain", True),
        rel=found.start.rel,
        noise=comparison.noise,
        differing_bits=bits,
    )


def _differing_bits(comparison: Comparison) -> int | None:
    bits: Any = getattr(comparison, "bits", None)
    return int(bits.count) if bits is not None and bits.is_expected else None
