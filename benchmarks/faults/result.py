"""Define the record of one case, in plain JSON types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """Hold the answers of all strategies for one change in one model and probe.

    ``size`` is the largest relative change of one token in full tensors, infinite if the structure
    differs. ``first_differing`` is the first call with differing bits. ``verdicts`` has, by
    strategy, ``None`` where it does not apply, else whether it found something and what it named.
    """

    model: str
    probe: str
    kind: str
    name: str
    size: float
    first_differing: str | None
    verdicts: Mapping[str, tuple[bool, str | None] | None]
    bytes_a_module: Mapping[str, float]
    starts: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    where: str | None = None
    cause: str | None = None
    evidence: str = ""
    rel: float = 0.0
    noise: float = 0.0
    is_certain: bool = True
    is_cause_right: bool = False
    seconds: float = 0.0
    error: str = ""

    @property
    def case(self) -> str:
        """Return the name of the case in messages."""
        return f"{self.model} {self.probe}"

    def plain(self) -> dict[str, Any]:
        """Return the record for JSON, which has no infinite numbers."""
        values = asdict(self)
        for name in ("size", "rel", "noise"):
            values[name] = min(values[name], 1e300)
        return values


@dataclass(slots=True)
class Results:
    """Hold all results of the benchmark."""

    faults: list[Result] = field(default_factory=list)
    benign: list[Result] = field(default_factory=list)
    curves: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def above(self, line: float) -> list[Result]:
        """Return the faults that count."""
        return [r for r in self.faults if r.size > line and not r.error]

    def below(self, line: float) -> list[Result]:
        """Return the faults too small to count."""
        return [r for r in self.faults if r.size <= line and not r.error]

    @property
    def broken(self) -> list[Result]:
        """Return the cases that raised."""
        return [r for r in (*self.faults, *self.benign) if r.error]
