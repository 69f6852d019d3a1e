"""Summary x summary -> how far two tensors are apart. Neither torch nor pytest is needed.

With every token divided by its own norm (floored at a tenth of the median token's), the relative
drift is the larger of

- the root mean square over the tokens of their L2 distance, estimated from the two sketches, and
- the largest change of one token's norm.

Integers and booleans are equal or not.
"""

from __future__ import annotations

import math

import numpy as np

from pytest_nnsight.run import NORM_FLOOR, Summary


def relative_drift(golden: Summary, received: Summary) -> tuple[float, int | None]:
    """Return the relative drift of two summaries of one shape, and the token that moved most.

    Infinite where one has NaN or Inf that the other has not, or where exact values differ. The
    estimate from 61 buckets lies within about 0.8 and 1.3 of the true distance.
    """
    if golden.digest or received.digest:
        return (0.0, None) if golden.digest == received.digest else (math.inf, None)
    if (golden.nan, golden.inf) != (received.nan, received.inf):
        return math.inf, None
    if not golden.sketch or not received.sketch:
        return (0.0, None) if golden.sketch == received.sketch else (math.inf, None)
    if golden.norms == received.norms and golden.sketch == received.sketch:
        return 0.0, None
    norms, others = _floats(golden.norms), _floats(received.norms)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        floor = NORM_FLOOR * max(float(np.median(norms)), float(np.median(others)))
        scale = np.maximum(np.maximum(norms, others), floor)
        change = np.where(norms == others, 0.0, np.abs(norms - others) / scale)
        change = np.nan_to_num(change, nan=np.inf)
        share = np.nan_to_num(np.where(scale > 0, np.maximum(norms, others) / scale, 0.0), nan=1.0)
    weight = math.sqrt(float(np.square(share).sum())) or 1.0
    distance = float(np.linalg.norm(_floats(golden.sketch) - _floats(received.sketch)))
    token = int(np.argmax(change)) if len(change) > 1 and change.max() > 0 else None
    return max(distance / weight, float(change.max())), token


def _floats(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<f4").astype(np.float64)


def telling_statistics(golden: Summary, received: Summary) -> tuple[str, str]:
    """Return the statistic that changed most, as text of both sides: ``std 0.7867``, ``0.7875``."""
    if (golden.nan, golden.inf) != (received.nan, received.inf):
        return f"{golden.nan} NaN, {golden.inf} Inf", f"{received.nan} NaN, {received.inf} Inf"
    scale = max(golden.std or 0.0, received.std or 0.0, 1e-30)
    pairs = [
        (name, before, now)
        for name, before, now in (
            ("mean", golden.mean, received.mean),
            ("std", golden.std, received.std),
            ("min", golden.minimum, received.minimum),
            ("max", golden.maximum, received.maximum),
        )
        if before is not None and now is not None
    ]
    if not pairs:
        return golden.digest or "no values", received.digest or "no values"
    name, before, now = max(pairs, key=lambda pair: abs(pair[1] - pair[2]) / scale)
    digits = next((d for d in range(4, 9) if f"{before:.{d}g}" != f"{now:.{d}g}"), 4)
    return f"{name} {before:.{digits}g}", f"{now:.{digits}g}"
