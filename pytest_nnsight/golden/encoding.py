"""Numbers <-> their text in a golden: short, exact, and checked when read."""

from __future__ import annotations

import base64
from typing import Any

LONGEST_ROW = 16 * 1024 * 1024


def shortest(value: float) -> float | int:
    """Cut a number to the 7 digits that float32 holds for sure; whole ones lose their point."""
    short = float(f"{value:.7g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short


def to_base64(data: bytes) -> str:
    """Write bytes as base64."""
    return base64.b64encode(data).decode("ascii")


def encode_ranges(rows: tuple[tuple[int, ...], ...]) -> list[list[list[int]]]:
    """Write rows of numbers as runs ``[first, step, count]``: a mask or positions take a few."""
    return [_rowto_runs(row) for row in rows]


def _rowto_runs(row: tuple[int, ...]) -> list[list[int]]:
    runs: list[list[int]] = []
    for number in row:
        if runs and runs[-1][2] == 1:
            runs[-1] = [runs[-1][0], number - runs[-1][0], 2]
        elif runs and number == runs[-1][0] + runs[-1][1] * runs[-1][2]:
            runs[-1][2] += 1
        else:
            runs.append([number, 0, 1])
    return runs


def decode_ranges(rows: Any) -> tuple[tuple[int, ...], ...]:
    """Read what `to_runs` wrote. Raise `ValueError` for a row longer than any prompt."""
    if any(type(number) is not int for row in rows for run in row for number in run):
        raise ValueError("a run is of whole numbers")
    counts = [count for row in rows for _, _, count in row]
    if any(count < 1 for count in counts) or sum(counts) > LONGEST_ROW:
        raise ValueError("rows of whole numbers are too long")
    return tuple(
        tuple(first + step * i for first, step, count in row for i in range(count)) for row in rows
    )


def read_noise(value: Any) -> float:
    """Read a relative drift, which is below 1."""
    if not 0 <= float(value) < 1:
        raise ValueError(f"noise {value!r:.40} is not in [0, 1)")
    return float(value)


def from_base64(text: Any, size: int | None) -> bytes:
    """Read base64; where ``size`` is given, nothing at all or that many bytes."""
    data = base64.b64decode(text, validate=True)
    if size is not None and data and len(data) != size:
        raise ValueError(f"there are {len(data)} bytes of numbers, not {size}")
    return data
