"""Summary x summary -> how far two tensors are apart. Neither torch nor pytest is needed.

All sizes are relative to a token's own norm, floored at a tenth of the median token's: a token that
is nearly zero has no size of its own. Integers and booleans are equal or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from pytest_nnsight.packing import read_norms, unpack
from pytest_nnsight.run import NORM_FLOOR, Summary, numbers_per_token


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two tensors of one shape are apart, in units of their tokens' norms.

    ``rms`` is over all tokens, ``worst`` the largest of one token, at index ``token`` of the
    flattened batch. ``each`` are the estimates of all tokens. ``rms`` and ``worst`` are infinite
    where one tensor has NaN or Inf that the other has not, or where integers differ. ``error`` is
    the standard error of ``rms``, as a share of it.
    ``is_same`` tells whether all bits are equal. ``pooled`` is the largest drift of one token,
    ``pooled_token``, over the eight values that end with this one (see `pooling`).
    """

    rms: float = 0.0
    worst: float = 0.0
    token: int | None = None
    error: float = 0.0
    is_same: bool = False
    pooled: float = 0.0
    pooled_token: int | None = None
    each: np.ndarray | None = field(default=None, compare=False, repr=False)


_LAST_BITS = 3e-6  # of float32, and of the steps in which a projection is kept
SAME = Distance(is_same=True)
APART = Distance(math.inf, math.inf)


def distance(golden: Summary, received: Summary) -> Distance:
    """Estimate the distance of two summarised tensors of one shape.

    Each number of a token's projection is one sample of its distance: the estimate of one token
    from ``k`` numbers has a relative standard error of about ``1 / sqrt(2 k)``.
    """
    if (golden.nan, golden.inf) != (received.nan, received.inf):
        return APART
    equal_bits = golden.digest == received.digest and golden.dtype == received.dtype
    if equal_bits and golden.sketch == received.sketch:
        return SAME
    if not golden.sketch or not received.sketch:
        both_without_numbers = golden.minimum is None and received.minimum is None
        return Distance() if both_without_numbers else APART
    norms = np.maximum(read_norms(golden.norms), read_norms(received.norms))
    before, now = unpack([(summary.norms, summary.sketch) for summary in (golden, received)])
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(before - now).sum(1)
    apart = _of_tokens(norms, squares)
    # A checksum shows every small change, a projection every large one, such as values that changed
    # sign or place. Its own last bits depend on what it was computed together with.
    return SAME if equal_bits and apart.worst < _LAST_BITS else apart


def true_distance(golden: np.ndarray, received: np.ndarray) -> Distance:
    """Return the distance of two whole tensors, ``[tokens, values]``, without an estimate."""
    before, now = golden.astype(np.float64), received.astype(np.float64)
    if not np.array_equal(np.isfinite(before), np.isfinite(now)):
        return APART
    if np.array_equal(golden, received, equal_nan=True):
        return SAME
    before, now = np.nan_to_num(before), np.nan_to_num(now)
    norms = np.maximum(np.linalg.norm(before, axis=1), np.linalg.norm(now, axis=1))
    return replace(_of_tokens(norms, np.square(before - now).sum(1)), error=0.0)


def _of_tokens(norms: np.ndarray, squares: np.ndarray) -> Distance:
    """Return the distance, given norms and squared distances of all tokens."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scale = np.maximum(norms, NORM_FLOOR * float(np.median(norms)))
        each = np.where(squares > 0, np.sqrt(squares) / scale, 0.0)
        each = np.nan_to_num(each, nan=np.inf)
        weight = np.nan_to_num(np.where(scale > 0, norms / scale, 0.0), nan=1.0)
    total = float(np.square(weight).sum()) or 1.0
    token = int(np.argmax(each))
    return Distance(
        rms=math.sqrt(float(np.square(each).sum()) / total),
        worst=float(each[token]),
        token=token if len(each) > 1 else None,
        error=_error(each),
        each=each,
    )


def _error(each: np.ndarray) -> float:
    """Return the relative standard error of the rms over tokens, from the samples that carry it.

    Where one token carries all of the drift, its own numbers are all the samples there are. How
    many tokens carry it is told from the fourth moment of their estimates, which is ``1 + 2 / k``
    times as large as that of the truth where each is made of ``k`` numbers.
    """
    squares = np.square(each)
    total = float(squares.sum())
    if not total or not math.isfinite(total):
        return 0.0
    numbers = numbers_per_token(len(each))
    carrying = total**2 / float(np.square(squares).sum())
    carrying = min(len(each), carrying + (carrying - 1.0) * 2.0 / numbers)
    return 1.0 / math.sqrt(2.0 * numbers * carrying)


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
