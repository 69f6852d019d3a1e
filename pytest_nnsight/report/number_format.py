"""Numbers -> JSON that every reader takes, and maps of many numbers in one byte each."""

from __future__ import annotations

import base64
import math

import numpy as np

DRIFT_DECADES = (-9.0, 1.0)
NORM_DECADES = (-4.0, 8.0)
_SAME, _UNKNOWN = 0, 255  # the bytes between are a logarithm


def plain(number: float | None, digits: int = 4) -> float | str | None:
    """Return a number with few digits; one that JSON has no word for as text: ``"Infinity"``."""
    if number is None:
        return None
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return float(f"{number:.{digits}g}")


def map_bytes(numbers: np.ndarray, decades: tuple[float, float]) -> str:
    """Return numbers as base64, a byte each: 0 for nothing, 1 to 254 by logarithm, 255 unknown.

    Byte ``b`` stands for ``10 ** (low + (b - 1) / 253 * (high - low))``. NaN is unknown.
    """
    low, high = decades
    with np.errstate(divide="ignore", invalid="ignore"):
        place = (np.log10(numbers) - low) / (high - low)
    steps = np.clip(np.nan_to_num(place, nan=0.0, neginf=0.0, posinf=1.0), 0.0, 1.0)
    found = 1 + np.round(steps * 253)
    found = np.where(numbers == 0, _SAME, np.where(np.isnan(numbers), _UNKNOWN, found))
    return base64.b64encode(found.astype(np.uint8).tobytes()).decode("ascii")
