"""What a test left changed, and the form of a function that finds and restores it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import wraps
from typing import Any


class Severity(IntEnum):
    """Say what a leak means for the test that left it."""

    NOTE = 0  # restored; a library may have changed it by itself, so it fails nothing
    RESTORED = 1  # restored; the test fails
    DISTRUST = 2  # restored, but no golden is written from what the test captured
    LOST = 3  # not restored: the model must be loaded again


@dataclass(frozen=True, slots=True)
class Leak:
    """Describe one thing that a test left changed, in the words of the message."""

    text: str
    severity: Severity = Severity.RESTORED


Restore = Callable[[], Iterator[Leak]]
"""Restores one kind of state to its snapshot, and yields a leak for what had changed."""


def snapshot(function: Callable[[Any], Iterator[Leak | None]]) -> Callable[[Any], Restore]:
    """Turn a generator function, written like a fixture, into one that returns a `Restore`.

    It remembers the state, yields nothing once while the test runs, then yields its leaks.
    """

    @wraps(function)
    def take(model: Any) -> Restore:
        steps = function(model)
        next(steps)
        return lambda: (leak for leak in steps if leak is not None)

    return take


def listed(names: Sequence[str], at_most: int = 3) -> str:
    """Return the first names, and how many more there are; an empty path is the model itself."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(name or "the model" for name in names[:at_most]) + more
