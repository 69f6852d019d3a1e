"""What a test left changed, and how the functions that find and restore it are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Severity(IntEnum):
    """Say what a leak means for the test that left it."""

    NOTE = 0  # restored; a library may have changed it by itself, so it fails nothing
    RESTORED = 1  # restored; a warning
    DISTRUST = 2  # restored; a warning, and no golden is written, since numbers may have changed
    LOST = 3  # not restored: the test fails, and the model must be loaded again


@dataclass(frozen=True, slots=True)
class Leak:
    """Describe one thing that a test left changed, in the words of the message."""

    text: str
    severity: Severity = Severity.DISTRUST


Snapshot = Callable[[Any], Iterator[Leak | None]]


def take_snapshots(functions: Iterable[Snapshot], model: Any) -> Callable[[], list[Leak]]:
    """Remember the state of a model; return a function that restores it and returns the leaks.

    Each of ``functions`` is a generator function, written like a fixture: it remembers one kind of
    state, yields ``None`` while the test runs, then restores and yields a leak for each change.
    """
    steps = [function(model) for function in functions]
    for each in steps:
        next(each)
    return lambda: [leak for each in steps for leak in each if leak is not None]


def listed(names: Sequence[str], at_most: int = 3) -> str:
    """Return the first names, and how many more there are; an empty path is the model itself."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(name or "the model" for name in names[:at_most]) + more
