"""One row of the table: what was measured, what it must reach, what it reached."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """``reached`` is a ratio, or has a ``unit``; without a ``goal`` it is there for contrast."""

    measure: str
    reached: float
    goal: float | None = None
    threads: int | None = None
    unit: str = "x"
    """``x`` for a ratio, ``MB``, or nothing for a count."""
    digits: int = 2
    points: tuple[tuple[float, ...], ...] = ()
    """Of a growth: its sizes, our seconds, the plain model's where there is one."""

    @property
    def is_within(self) -> bool | None:
        """Whether the goal is reached, as it is printed; ``None`` where there is none."""
        return None if self.goal is None else round(self.reached, self.digits) <= self.goal

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """The texts of the row."""
        verdict = {None: "", True: "yes", False: "NO"}[self.is_within]
        goal = "" if self.goal is None else self._told(self.goal)
        threads = "" if self.threads is None else str(self.threads)
        return self.measure, threads, goal, self._told(self.reached), verdict

    def _told(self, number: float) -> str:
        return f"{number:.{self.digits}f}" + (f" {self.unit}" if self.unit == "MB" else "")


HEADER = ("measure", "threads", "goal", "reached", "within")
