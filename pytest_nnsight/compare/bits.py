"""Two runs -> whether they are equal bit by bit, and whether they should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.run import Call, Environment


@dataclass(frozen=True, slots=True)
class Bits:
    """The number of calls that differ in any bit, and the label of the first of them.

    ``is_expected`` tells whether all bits should be equal: nothing that may change numbers differs
    between the two environments. Otherwise ``reason`` says what differs.
    """

    count: int
    first: str
    is_expected: bool
    reason: str


def count_bits(
    calls: Sequence[Call], distances: Mapping[tuple[int, str], Distance], reason: str
) -> Bits:
    """Count the calls that differ in any bit; ``reason`` is that of `numeric_differences`."""
    positions = sorted({position for (position, _), d in distances.items() if not d.is_same})
    first = calls[positions[0]].label if positions else ""
    return Bits(len(positions), first, not reason, reason)


def numeric_differences(before: Environment, now: Environment) -> str:
    """Say what differs between two environments that may change the last bits of any result.

    Return the empty string if nothing does: then equal models give equal bits.
    """
    pairs = [
        (name, getattr(before, name), getattr(now, name))
        for name in ("device", "dtype", "attention", "threads", "cpu", "kernels")
    ]
    pairs.append(("torch", before.versions.get("torch"), now.versions.get("torch")))
    default = "as torch has them"
    return ", ".join(
        f"{name} {old or default} -> {new or default}" for name, old, new in pairs if old != new
    )
