"""Run x run -> whether they are equal bit by bit, and whether they should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.run import Call, Environment


@dataclass(frozen=True, slots=True)
class Bits:
    """How many calls differ at all, ``count``, and the first of them.

    ``is_expected`` tells whether they should be equal bit by bit: nothing that moves numbers
    differs between the two runs; otherwise ``reason`` says what does.
    """

    count: int
    first: str
    is_expected: bool
    reason: str


def count_bits(
    calls: Sequence[Call], values: Mapping[tuple[int, str], Distance], reason: str
) -> Bits:
    """Count the calls that differ at all; ``reason`` is why they may, as `what_moves_numbers`."""
    differing = sorted({position for (position, _), value in values.items() if not value.is_same})
    first = calls[differing[0]].label if differing else ""
    return Bits(len(differing), first, not reason, reason)


def numeric_differences(before: Environment, now: Environment) -> str:
    """Say what differs between two environments that may change the last bits of any result.

    The empty string where nothing does: then equal models give equal bits.
    """
    pairs = [
        (name, getattr(before, name), getattr(now, name))
        for name in ("device", "dtype", "attention", "threads", "cpu", "kernels")
    ]
    pairs.append(("torch", before.versions.get("torch"), now.versions.get("torch")))
    return ", ".join(
        f"{name} {old or 'as torch has them'} -> {new or 'as torch has them'}"
        for name, old, new in pairs
        if old != new
    )
