"""Distances of single tokens -> the same, pooled over consecutive values.

With one number per token, the estimate of one token's drift scatters too much to tell it from the
noise of many tokens. But a drift stays: it goes on through the residual stream. The root mean
square over the estimates of eight consecutive values scatters a third as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.timeline import LeafKey, Value
from pytest_nnsight.run import token_count

WINDOW = 8
_BLOCK = 2**13  # numbers that are processed at once, few enough to stay in the cache
_LEAST_SHARE = 0.1  # of the mean square: a value is not blamed for what was large before it


def pool(values: Sequence[Value], distances: Mapping[LeafKey, Distance]) -> dict[LeafKey, Distance]:
    """Return the distances with ``pooled`` filled in, for values that have seven before them.

    Values of the same number of tokens are pooled in order of time; a value that is equal in golden
    and received counts as no drift.
    """
    by_tokens: dict[int, list[LeafKey]] = {}
    for value in values:
        tokens = token_count(value.leaf.summary.shape)
        if value.key in distances and tokens > 1:
            by_tokens.setdefault(tokens, []).append(value.key)
    pooled: dict[LeafKey, Distance] = {}
    for tokens, keys in by_tokens.items():
        estimates = [distances[key].per_token for key in keys]
        if len(keys) < WINDOW or all(estimate is None for estimate in estimates):
            continue
        none, step = np.zeros(tokens), max(1, _BLOCK // tokens)
        rows = [none if estimate is None else estimate for estimate in estimates]
        for start in range(0, len(keys) - WINDOW + 1, step):
            block = slice(start, start + step + WINDOW - 1)
            largest = _largest(np.square(rows[block]))
            for key, (size, token) in zip(keys[block][WINDOW - 1 :], largest, strict=True):
                pooled[key] = distances[key].with_pooled(size, token)
    return pooled


def _largest(squares: np.ndarray) -> Iterator[tuple[float, int]]:
    """Yield the largest mean of a token over each eight rows, and the index of that token."""
    finite, count = np.nan_to_num(squares, posinf=1.0), len(squares) - WINDOW + 1
    means = sum((finite[i : i + count] for i in range(1, WINDOW)), finite[:count]) / WINDOW
    means = np.where(squares[WINDOW - 1 :] >= _LEAST_SHARE * means, means, 0.0)
    return zip(np.sqrt(means.max(1)).tolist(), means.argmax(1).tolist(), strict=True)
