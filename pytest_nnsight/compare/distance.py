"""Two summaries -> how far their tensors are apart.

All sizes are relative to the norm of the token, or to a tenth of the median norm if that is larger:
a token that is nearly zero has no meaningful size. Integers and booleans are equal or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pytest_nnsight.run import NORM_FLOOR, Summary, numbers_per_token
from pytest_nnsight.summary.packing import BITS, unpack
from pytest_nnsight.summary.rows import read_rows


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two tensors of one shape are apart, in units of their tokens' norms.

    ``rms`` is over all tokens, ``worst`` the largest of one token, whose index in the flattened
    batch is ``token``; ``per_token`` are the estimates of all tokens. ``rms`` and ``worst`` are
    infinite if only one tensor has NaN or Inf, or if integers differ. ``error`` is the standard
    error of ``rms``, as a share of it. ``is_same`` tells whether all bits are equal. ``pooled`` is
    the largest drift of one token, ``pooled_token``, over the eight values that end with this one
    (see `pooling`).

    Only real tokens count (see `positions`). ``padded`` is the largest drift of a token of padding.
    """

    rms: float = 0.0
    worst: float = 0.0
    token: int | None = None
    error: float = 0.0
    is_same: bool = False
    pooled: float = 0.0
    pooled_token: int | None = None
    per_token: np.ndarray | None = field(default=None, compare=False, repr=False)
    padded: float = 0.0

    def with_pooled(self, size: float, token: int) -> Distance:
        """Return the same distance with the drift of one token over the values before it."""
        rest = self.rms, self.worst, self.token, self.error, self.is_same  # faster than `replace`
        return Distance(*rest, size, token, self.per_token, self.padded)


_LAST_BITS = 3e-6  # of float32, and of the steps in which a projection is stored
_BROKEN = 0.1  # drift of a token that has NaN or Inf in one run only; it is marked as very large
_BLOCK = 2**15  # bytes of sketches that are unpacked at once, few enough to stay in the cache
Pair = tuple[Summary, Summary]
SAME = Distance(is_same=True)
INFINITE = Distance(math.inf, math.inf)


def distances(
    pairs: Sequence[Pair], real_tokens: Sequence[np.ndarray | None] | None = None
) -> list[Distance]:
    """Estimate the distances of summarised tensors, each pair of one shape; equal pairs only once.

    ``real_tokens`` tell for each pair which tokens count, ``None`` for all. Masks may have another
    shape, since they are compared by meaning.

    Each number of a token's projection is one sample of its distance: the estimate of one token
    from ``k`` numbers has a relative standard error of about ``1 / sqrt(2 k)``. Tensors of one size
    are estimated together.
    """
    found: dict[tuple[int, int], Distance] = {}
    groups: dict[tuple[int, int, int], list[Pair]] = {}
    masks = {id(real): real for real in real_tokens or ()}
    real_of = {(id(a), id(b)): r for (a, b), r in zip(pairs, real_tokens or (), strict=False)}
    for golden, received in {(id(old), id(new)): (old, new) for old, new in pairs}.values():
        real = real_of.get((id(golden), id(received)))
        exact = _without_estimate(golden, received, real)
        if exact is not None:
            found[id(golden), id(received)] = exact
        else:
            size = (len(golden.norms), len(golden.sketch), id(real))
            groups.setdefault(size, []).append((golden, received))
    for (_, sketch_size, mask), group in groups.items():
        step = max(1, _BLOCK // sketch_size)
        for block in (group[start : start + step] for start in range(0, len(group), step)):
            estimates = _estimates(block, masks.get(mask))
            for (golden, received), estimate in zip(block, estimates, strict=True):
                found[id(golden), id(received)] = estimate
    return [found[id(golden), id(received)] for golden, received in pairs]


def _without_estimate(
    golden: Summary, received: Summary, real: np.ndarray | None
) -> Distance | None:
    """Return a distance that needs no estimate, else ``None``."""
    if real is not None and not real.any():
        return SAME
    if golden.rows and received.rows:
        return _distance_of_rows(golden, received, real)
    if _has_other_counts(golden, received):
        if real is None or not golden.sketch or not received.sketch:
            return INFINITE
        return None
    parts = [(each.sketch, each.digest, each.dtype) for each in (golden, received)]
    if parts[0] == parts[1]:
        return SAME
    if not golden.sketch or not received.sketch:
        both_without_numbers = golden.minimum is None and received.minimum is None
        return Distance() if both_without_numbers else INFINITE
    return None


def _has_other_counts(golden: Summary, received: Summary) -> bool:
    return (golden.nan, golden.inf) != (received.nan, received.inf)


def _distance_of_rows(golden: Summary, received: Summary, real: np.ndarray | None) -> Distance:
    """Compare masks or integers by the number of each token; a mask may be broadcast."""
    both = [read_rows(each.rows) for each in (golden, received)]
    if golden.shape != received.shape:
        batches = [(each.shape or (1,))[0] for each in (golden, received)]
        try:
            grids = [rows.reshape(batch, -1) for rows, batch in zip(both, batches, strict=True)]
            both = [grid.ravel() for grid in np.broadcast_arrays(*grids)]
        except ValueError:
            return INFINITE
    if len(both[0]) != len(both[1]):
        return INFINITE
    differs = both[0] != both[1]
    counts = differs & real if real is not None and len(real) == len(differs) else differs
    if counts.any():
        return replace(INFINITE, token=int(counts.argmax()) if len(golden.shape) > 2 else None)
    return replace(SAME, padded=1.0) if differs.any() else SAME


def _estimates(pairs: Sequence[Pair], real: np.ndarray | None) -> Iterator[Distance]:
    """Yield the distances of tensors that all have the same number of tokens."""
    old, before = unpack([(golden.norms, golden.sketch) for golden, _ in pairs])
    new, now = unpack([(received.norms, received.sketch) for _, received in pairs])
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(before - now).sum(2)
    found = _from_tokens(np.maximum(old, new), squares, real)
    if real is not None:
        close = np.abs(before - now).max(2) <= _rounding(pairs, old)
        is_same = (close & (old == new))[:, real].all(1).tolist()
        for (golden, received), estimate, same in zip(pairs, found, is_same, strict=True):
            if _has_other_counts(golden, received) and estimate.worst > _BROKEN:
                yield replace(INFINITE, token=estimate.token)
            else:
                yield replace(estimate, is_same=same and golden.dtype == received.dtype)
        return
    for (golden, received), estimate in zip(pairs, found, strict=True):
        # The checksum shows every small change, the projection every large one, such as values
        # that changed sign or were swapped. The last bits of a projection are not reproducible.
        has_equal_bits = (golden.digest, golden.dtype) == (received.digest, received.dtype)
        yield SAME if has_equal_bits and estimate.worst < _LAST_BITS else estimate


def _rounding(pairs: Sequence[Pair], norms: np.ndarray) -> np.ndarray:
    """Return by how much projections of equal tokens differ: padding may change their steps."""
    first = b"".join(each.sketch[:1] for pair in pairs for each in pair)
    powers = np.frombuffer(first, np.int8).reshape(-1, 2)
    steps = np.where(powers[:, 0] == powers[:, 1], 0.0, np.ldexp(1.0, powers.max(1) - BITS))
    rounding: np.ndarray = steps[:, None] * norms
    return rounding


def true_distance(golden: np.ndarray, received: np.ndarray) -> Distance:
    """Return the exact distance of two whole tensors, ``[tokens, values]``."""
    before, now = golden.astype(np.float64), received.astype(np.float64)
    if not np.array_equal(np.isfinite(before), np.isfinite(now)):
        return INFINITE
    if np.array_equal(golden, received, equal_nan=True):
        return SAME
    before, now = np.nan_to_num(before), np.nan_to_num(now)
    norms = np.maximum(np.linalg.norm(before, axis=1), np.linalg.norm(now, axis=1))
    found = _from_tokens(norms[None], np.square(before - now).sum(1)[None])
    return replace(next(found), error=0.0)


def _from_tokens(
    norms: np.ndarray, squares: np.ndarray, real: np.ndarray | None = None
) -> Iterator[Distance]:
    """Yield distances from norms and squared distances of all tokens, ``[tensors, tokens]``."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        medians = _medians(norms if real is None else norms[:, real])
        scale = np.maximum(norms, NORM_FLOOR * medians[:, None])
        each = np.where(squares > 0, np.sqrt(squares) / scale, 0.0)
        each = np.nan_to_num(each, nan=np.inf)
        shares = np.nan_to_num(np.where(scale > 0, norms / scale, 0.0), nan=1.0)
        padded = [0.0] * len(each)
        if real is not None:
            padded = each[:, ~real].max(1).tolist()
            each, shares = np.where(real, each, 0.0), shares * real
        parts = np.square(each)
        totals, fourths = parts.sum(1).tolist(), np.square(parts).sum(1).tolist()
    weights = np.square(shares).sum(1).tolist()
    worst, tokens = each.argmax(1).tolist(), each.shape[1]
    columns = zip(each, worst, totals, fourths, weights, padded, strict=True)
    for row, token, total, fourth, weight, padding in columns:
        yield Distance(
            rms=math.sqrt(total / (weight or 1.0)),
            worst=float(row[token]),
            token=token if tokens > 1 else None,
            error=_error(total, fourth, tokens),
            per_token=row,
            padded=padding,
        )


def _medians(norms: np.ndarray) -> np.ndarray:
    """Return the median of each row; `np.median` takes three times as long."""
    ranked, count = np.sort(norms, axis=1), norms.shape[1]
    middle: np.ndarray = (ranked[:, (count - 1) // 2] + ranked[:, count // 2]) / 2
    return middle


def _error(total: float, fourth: float, tokens: int) -> float:
    """Return the relative standard error of the rms over tokens, from the samples that carry it.

    ``total`` and ``fourth`` are the sums of the squares and of the fourth powers of the estimates.
    If one token carries all of the drift, only its own numbers are samples. The number of tokens
    that carry it follows from the fourth moment of the estimates, which is ``1 + 2 / k`` times that
    of the true drifts if each estimate is made of ``k`` numbers.
    """
    if not fourth or not math.isfinite(total):
        return 0.0
    numbers = numbers_per_token(tokens)
    carrying = total**2 / fourth
    carrying = min(tokens, carrying + (carrying - 1.0) * 2.0 / numbers)
    return 1.0 / math.sqrt(2.0 * numbers * carrying)


def most_changed_statistic(golden: Summary, received: Summary) -> tuple[str, str]:
    """Return the statistic that changed most, as text of both sides: ``std 0.7867``, ``0.7875``."""
    if (golden.nan, golden.inf) != (received.nan, received.inf):
        return f"{golden.nan} NaN, {golden.inf} Inf", f"{received.nan} NaN, {received.inf} Inf"
    scale = max(golden.std or 0.0, received.std or 0.0, 1e-30)
    names = {"mean": "mean", "std": "std", "min": "minimum", "max": "maximum"}
    both = [(name, getattr(golden, at), getattr(received, at)) for name, at in names.items()]
    pairs = [pair for pair in both if None not in pair]
    if not pairs:
        return golden.digest or "no values", received.digest or "no values"
    # Rounded: if all values were shifted alike, the mean is shown rather than a bound.
    name, before, now = max(pairs, key=lambda p: float(f"{abs(p[1] - p[2]) / scale:.4g}"))
    digits = next((n for n in range(4, 9) if f"{before:.{n}g}" != f"{now:.{n}g}"), 4)
    return f"{name} {before:.{digits}g}", f"{now:.{digits}g}"
