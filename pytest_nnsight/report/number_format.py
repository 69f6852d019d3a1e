"""Write numbers for the JSON report: single ones, and maps with one byte for each number."""

from __future__ import annotations

import base64
import json
import math

import numpy as np

DRIFT_DECADES = (-9.0, 1.0)
NORM_DECADES = (-4.0, 8.0)


def json_number(number: float | None, digits: int = 4) -> float | str | None:
    """Round a number to some digits; return those that JSON lacks as text: ``"Infinity"``."""
    if number is None:
        return None
    return float(f"{number:.{digits}g}") if math.isfinite(number) else json.dumps(float(number))


def encode_map(numbers: np.ndarray, decades: tuple[float, float]) -> str:
    """Encode numbers as base64, one byte for each.

    0 is zero and 255 is NaN. Any other byte ``b`` is ``10 ** (low + (b - 1) / 253 * (high - low))``
    where ``decades`` is ``(low, high)``.
    """
    low, high = decades
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (np.log10(numbers) - low) / (high - low)
    found = 1 + np.round(np.clip(share, 0.0, 1.0) * 253)
    found[numbers == 0] = 0
    found[np.isnan(share)] = 255
    return base64.b64encode(found.astype(np.uint8).tobytes()).decode("ascii")
