"""Define one row of the table: what was measured, its goal, and the result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """Hold a ratio, or a number with a ``unit``; without ``goal`` it is for comparison."""

    measure: str
    reached: float
    goal: float | None = None
    threads: int | None = None
    unit: str = "x"
    """``x`` for a ratio, ``MB``, or nothing for a count."""
    digits: int = 2
    points: tuple[tuple[float, ...], ...] = ()
    """For a growth: its sizes, our seconds, and the plain model's seconds if measured."""

    @property
    def is_within(self) -> bool | None:
        """Whether the rounded result reaches the goal; ``None`` without a goal."""
        return None if self.goal is None else round(self.reached, self.digits) <= self.goal

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """The texts of the cells."""
        verdict = {None: "", True: "yes", False: "NO"}[self.is_within]
        goal = "" if self.goal is None else self._text(self.goal)
        threads = "" if self.threads is None else str(self.threads)
        return self.measure, threads, goal, self._text(self.reached), verdict

    def _text(self, number: float) -> str:
        return f"{number:.{self.digits}f}" + (f" {self.unit}" if self.unit == "MB" else "")


HEADER = ("measure", "threads", "goal", "reached", "within")
