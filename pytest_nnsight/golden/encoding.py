"""Values <-> their form in a golden: short, exact, and checked when read."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

LONGEST_ROW = 16 * 1024 * 1024
"""The most numbers of one prompt, so that a few bytes of a golden cannot ask for all memory."""


def shortest(value: float) -> float | int:
    """Round a number to the 7 digits that float32 surely holds; return whole ones as `int`."""
    short = float(f"{value:.7g}")
    return int(short) if short == int(short) and abs(short) < 1e15 else short


def to_base64(data: bytes) -> str:
    """Write bytes as base64."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: Any, *sizes: int) -> bytes:
    """Read base64. Raise `ValueError` unless it holds one of ``sizes`` bytes, or none at all."""
    data = base64.b64decode(text, validate=True)
    if data and len(data) not in sizes:
        raise ValueError(f"there are {len(data)} bytes of numbers, not {sizes[0]}")
    return data


def encode_ranges(rows: tuple[tuple[int, ...], ...]) -> list[list[list[int]]]:
    """Write rows of integers as ranges ``[first, step, count]``: a mask takes only a few."""
    encoded: list[list[list[int]]] = [[] for _ in rows]
    for row, ranges in zip(rows, encoded, strict=True):
        for number in row:
            if ranges and ranges[-1][2] == 1:
                ranges[-1] = [ranges[-1][0], number - ranges[-1][0], 2]
            elif ranges and number == ranges[-1][0] + ranges[-1][1] * ranges[-1][2]:
                ranges[-1][2] += 1
            else:
                ranges.append([number, 0, 1])
    return encoded


def decode_ranges(rows: Any) -> tuple[tuple[int, ...], ...]:
    """Read what `encode_ranges` wrote. Raise `ValueError` for rows longer than any prompt."""
    if any(type(number) is not int for row in rows for item in row for number in item):
        raise ValueError("a range consists of integers")
    counts = [count for row in rows for _, _, count in row]
    if any(count < 1 for count in counts) or sum(counts) > LONGEST_ROW:
        raise ValueError("rows of integers are too long")
    return tuple(
        tuple(first + step * i for first, step, count in row for i in range(count)) for row in rows
    )


def read_noise(value: Any) -> float:
    """Read a relative noise. Raise `ValueError` unless it is at least 0 and below 1."""
    if not 0 <= float(value) < 1:
        raise ValueError(f"noise {value!r:.40} is not in [0, 1)")
    return float(value)


def _read_texts(value: Mapping[Any, Any]) -> dict[str, str]:
    return {str(key): str(text) for key, text in value.items()}


def _read_optional_text(value: Any) -> str | None:
    if not isinstance(value, str | None):
        raise ValueError(f"{value!r:.40} should be text")
    return value


READERS: Mapping[str, Callable[[Any], object]] = {
    **dict.fromkeys(("min", "max", "mean", "std"), float),
    **dict.fromkeys(("nan", "inf", "parameters", "threads"), int),
    **dict.fromkeys(("config", "generation"), dict),
    **dict.fromkeys(("digests", "versions"), _read_texts),
    **dict.fromkeys(("intervention", "revision", "weights"), _read_optional_text),
    "batch": bool,
    "modules": lambda modules: {
        str(name): {str(text): int(count) for text, count in counts.items()}
        for name, counts in modules.items()
    },
    "noise": read_noise,
    "pieces": lambda rows: tuple(tuple(str(piece) for piece in row) for row in rows),
    "tensors": lambda tensors: {str(name): decode_ranges(rows) for name, rows in tensors.items()},
    "text": lambda text: text,
    "token_ids": lambda rows: tuple(tuple(int(token) for token in row) for row in rows),
}
"""The function that reads a field of a golden, by the field's name; all others are text."""
