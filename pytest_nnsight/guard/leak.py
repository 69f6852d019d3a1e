"""The words of this room: what was left, and how each thing that is kept is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Leak:
    """One thing that a test left changed; ``is_lost`` where nothing but loading anew helps."""

    text: str
    is_lost: bool = False


PutBack = Callable[[], Iterator[Leak]]
"""Puts one kind of thing back as it was when it was kept, and says what of it had changed."""


def listed(names: Sequence[str], at_most: int = 3) -> str:
    """Name the first few of many."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
