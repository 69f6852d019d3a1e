"""The argument of a test that selects steps of a generation: ``3``, ``[0, 3]``, ``slice(2, 8)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nnsight.errors import UsageError

StepsArgument = int | Sequence[int] | slice | None


@dataclass(frozen=True, slots=True)
class Steps:
    """A selection of steps of a generation; step 0 is the prompt."""

    chosen: slice | tuple[int, ...]

    @classmethod
    def of(cls, argument: StepsArgument, option: str) -> Steps | None:
        """Read a number, a list or a slice; ``None`` selects all. Raise `UsageError` for others."""
        if argument is None:
            return None
        numbers = [argument] if isinstance(argument, int) else argument
        if isinstance(numbers, slice):
            parts: list[Any] = [numbers.start, numbers.stop, numbers.step]
        else:
            parts = list(numbers) if isinstance(numbers, Sequence) else [numbers]
        is_valid = all(p is None or (type(p) is int and p >= 0) for p in parts)
        if not is_valid or not parts or (isinstance(numbers, slice) and numbers.step == 0):
            raise UsageError(
                f"{option}={argument!r} is not a step of a generation; give numbers from 0 on, as "
                "in 3, [0, 3] or slice(2, 8)"
            )
        return cls(numbers if isinstance(numbers, slice) else tuple(sorted({*parts})))

    def __contains__(self, step: int) -> bool:
        """Tell whether a step is selected."""
        if isinstance(self.chosen, tuple):
            return step in self.chosen
        return step in range(*self.chosen.indices(step + 1))

    def __str__(self) -> str:
        """Write the selection as an index: ``0:8:2`` or ``[0, 3]``."""
        if isinstance(self.chosen, tuple):
            return str(list(self.chosen))
        start, stop, every = self.chosen.start, self.chosen.stop, self.chosen.step
        parts = [start, stop] if every is None else [start, stop, every]
        return ":".join("" if part is None else str(part) for part in parts)

    def for_nnsight(self, count: int) -> slice | list[int]:
        """Return an index for nnsight's ``tracer.iter[...]``, which ignores a stride.

        ``count`` is how many steps there are at most.
        """
        if isinstance(self.chosen, tuple):
            return list(self.chosen)
        return self.chosen if self.chosen.step in (None, 1) else list(range(count))[self.chosen]

    def check(self, ran: int, option: str) -> None:
        """Raise `UsageError` if one of the numbered steps did not run; ``ran`` is how many did."""
        if isinstance(self.chosen, tuple) and self.chosen[-1] >= ran:
            raise UsageError(
                f"{option}={self} asks for step {self.chosen[-1]}, but {ran} steps ran: the model "
                "ended earlier, or max_new_tokens is smaller"
            )
