"""The evidence that the rules of a diagnosis judge by, and the cause that a rule returns."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nnsight.compare import model_changes
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

    @property
    def config(self) -> list[str]:
        """The config keys that differ."""
        return model_changes.changed_config(self.golden, self.received)

    @property
    def modules(self) -> dict[str, str]:
        """For each class, how many of its modules have other settings."""
        return model_changes.changed_modules(self.golden, self.received)

    @property
    def weights(self) -> tuple[list[str], str]:
        """The names of the parameters that differ, and the difference as text."""
        fingerprints = (self.golden_weights, self.received_weights)
        return model_changes.changed_weights(self.golden, self.received, *fingerprints)

    @property
    def versions(self) -> str:
        """The packages whose versions differ, as text."""
        return model_changes.changed_versions(self.golden, self.received)

    @property
    def classes(self) -> dict[str, str]:
        """The class of each module of the golden, by path."""
        return {call.path: call.module_class for call in self.golden.calls}


def join_first(changes: list[str]) -> str:
    """Join the first three changes into one text; ``...`` stands for the others."""
    return "; ".join(changes[:3]) + (" ..." if len(changes) > 3 else "")
