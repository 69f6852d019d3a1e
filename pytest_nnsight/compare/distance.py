"""Summary x summary -> how far two tensors are apart. Neither torch nor pytest is needed.

All sizes are relative to a token's own norm, floored at a tenth of the median token's: a token that
is nearly zero has no size of its own. Integers and booleans are equal or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pytest_nnsight.run import NORM_FLOOR, Summary, numbers_per_token
from pytest_nnsight.summary.packing import unpack


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

    def with_pooled(self, size: float, token: int) -> Distance:
        """Return the same with the drift of one token over the values before it."""
        rest = self.rms, self.worst, self.token, self.error, self.is_same
        return Distance(*rest, size, token, self.each)


_LAST_BITS = 3e-6  # of float32, and of the steps in which a projection is kept
Pair = tuple[Summary, Summary]
_AT_ONCE = 2**15  # bytes of sketches, whose numbers stay in the cache
SAME = Distance(is_same=True)
APART = Distance(math.inf, math.inf)


def distance(golden: Summary, received: Summary) -> Distance:
    """Estimate the distance of two summarised tensors of one shape.

    Each number of a token's projection is one sample of its distance: the estimate of one token
    from ``k`` numbers has a relative standard error of about ``1 / sqrt(2 k)``.
    """
    return distances([(golden, received)])[0]


def distances(pairs: Sequence[Pair]) -> list[Distance]:
    """Estimate many distances, of tensors of one size in one go, and each of a pair only once."""
    known: dict[tuple[int, int], Distance] = {}
    groups: dict[tuple[int, int], dict[tuple[int, int], Pair]] = {}
    for golden, received in pairs:
        key = (id(golden), id(received))
        if key in known:
            continue
        plain = _without_numbers(golden, received)
        if plain is not None:
            known[key] = plain
        else:
            size = (len(golden.norms), len(golden.sketch))
            groups.setdefault(size, {})[key] = (golden, received)
    for size, group in groups.items():
        keys, step = [*group], max(1, _AT_ONCE // size[1])
        for some in (keys[start : start + step] for start in range(0, len(keys), step)):
            known |= zip(some, _by_numbers([group[key] for key in some]), strict=True)
    return [known[id(golden), id(received)] for golden, received in pairs]


def _without_numbers(golden: Summary, received: Summary) -> Distance | None:
    """Return a distance that needs no estimate, else ``None``."""
    if (golden.nan, golden.inf) != (received.nan, received.inf):
        return APART
    if golden.sketch == received.sketch and _has_equal_bits(golden, received):
        return SAME
    if not golden.sketch or not received.sketch:
        both_without_numbers = golden.minimum is None and received.minimum is None
        return Distance() if both_without_numbers else APART
    return None


def _has_equal_bits(golden: Summary, received: Summary) -> bool:
    return golden.digest == received.digest and golden.dtype == received.dtype


def _by_numbers(pairs: Sequence[Pair]) -> Iterator[Distance]:
    """Yield the distances of tensors that all have the same number of tokens."""
    old, before = unpack([(golden.norms, golden.sketch) for golden, _ in pairs])
    new, now = unpack([(received.norms, received.sketch) for _, received in pairs])
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.square(before - now).sum(2)
    found = _of_tokens(np.maximum(old, new), squares)
    for (golden, received), apart in zip(pairs, found, strict=True):
        # A checksum shows every small change, a projection every large one, such as values that
        # changed sign or place. Its own last bits depend on what it was computed together with.
        is_same = apart.worst < _LAST_BITS and _has_equal_bits(golden, received)
        yield SAME if is_same else apart


def true_distance(golden: np.ndarray, received: np.ndarray) -> Distance:
    """Return the distance of two whole tensors, ``[tokens, values]``, without an estimate."""
    before, now = golden.astype(np.float64), received.astype(np.float64)
    if not np.array_equal(np.isfinite(before), np.isfinite(now)):
        return APART
    if np.array_equal(golden, received, equal_nan=True):
        return SAME
    before, now = np.nan_to_num(before), np.nan_to_num(now)
    norms = np.maximum(np.linalg.norm(before, axis=1), np.linalg.norm(now, axis=1))
    found = _of_tokens(norms[None], np.square(before - now).sum(1)[None])
    return replace(next(found), error=0.0)


def _of_tokens(norms: np.ndarray, squares: np.ndarray) -> Iterator[Distance]:
    """Yield distances, given norms and squared distances of all tokens, ``[tensors, tokens]``."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        scale = np.maximum(norms, NORM_FLOOR * _medians(norms)[:, None])
        each = np.where(squares > 0, np.sqrt(squares) / scale, 0.0)
        each = np.nan_to_num(each, nan=np.inf)
        weights = np.nan_to_num(np.where(scale > 0, norms / scale, 0.0), nan=1.0)
        parts = np.square(each)
        totals, fourths = parts.sum(1).tolist(), np.square(parts).sum(1).tolist()
    carried = np.square(weights).sum(1).tolist()
    worst, tokens = each.argmax(1).tolist(), each.shape[1]
    for row, token, total, fourth, weight in zip(
        each, worst, totals, fourths, carried, strict=True
    ):
        yield Distance(
            rms=math.sqrt(total / (weight or 1.0)),
            worst=float(row[token]),
            token=token if tokens > 1 else None,
            error=_error(total, fourth, tokens),
            each=row,
        )


def _medians(norms: np.ndarray) -> np.ndarray:
    """Return the median of each row, as numpy has it, which takes three times as long."""
    ranked, count = np.sort(norms, axis=1), norms.shape[1]
    middle: np.ndarray = (ranked[:, (count - 1) // 2] + ranked[:, count // 2]) / 2
    return middle


def _error(total: float, fourth: float, tokens: int) -> float:
    """Return the relative standard error of the rms over tokens, from the samples that carry it.

    ``total`` and ``fourth`` are the sums of the squares and of the fourth powers of the estimates.
    Where one token carries all of the drift, its own numbers are all the samples there are. How
    many tokens carry it is told from the fourth moment of their estimates, which is ``1 + 2 / k``
    times as large as that of the truth where each is made of ``k`` numbers.
    """
    if not fourth or not math.isfinite(total):
        return 0.0
    numbers = numbers_per_token(tokens)
    carrying = total**2 / fourth
    carrying = min(tokens, carrying + (carrying - 1.0) * 2.0 / numbers)
    return 1.0 / math.sqrt(2.0 * numbers * carrying)


def telling_statistics(golden: Summary, received: Summary) -> tuple[str, str]:
    """Return the statistic that changed most, as text of both sides: ``std 0.7867``, ``0.7875``."""
    if (golden.nan, golden.inf) != (received.nan, received.inf):
        return f"{golden.nan} NaN, {golden.inf} Inf", f"{received.nan} NaN, {received.inf} Inf"
    scale = max(golden.std or 0.0, received.std or 0.0, 1e-30)
    pairs = (
        ("mean", golden.mean, received.mean),
        ("std", golden.std, received.std),
        ("min", golden.minimum, received.minimum),
        ("max", golden.maximum, received.maximum),
    )
    known = [(n, old, new) for n, old, new in pairs if old is not None and new is not None]
    if not known:
        return golden.digest or "no values", received.digest or "no values"
    # Where all values were shifted alike, their mean is told rather than a bound.
    name, before, now = max(known, key=lambda k: float(f"{abs(k[1] - k[2]) / scale:.4g}"))
    if before != now:
        for digits in range(4, 9):
            old, new = f"{before:.{digits}g}", f"{now:.{digits}g}"
            if old != new:
                return f"{name} {old}", new
    return f"{name} {before:.4g}", f"{now:.4g}"
