"""The records of this subpackage: what a test left changed, and how each kind is restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """What a leak means for the test that left it."""

    NOTE = 0
    """Restored; a library may have changed it by itself, so it is shown and fails nothing."""
    RESTORED = 1
    """Restored; a leak of the test."""
    DISTRUST = 2
    """Restored, but what the test captured cannot be trusted: no golden is written from it."""
    LOST = 3
    """Only loading the model again helps."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that a test left changed, as a message names it."""

    text: str
    severity: Severity = Severity.RESTORED


Restore = Callable[[], Iterator[Leak]]
"""Restores one kind of state as it was at its snapshot; yields what had changed."""


def listed(names: Sequence[str], at_most: int = 3) -> str:
    """Name the first few of many."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
