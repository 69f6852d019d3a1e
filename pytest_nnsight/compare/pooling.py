"""Distances of single tokens -> the same, pooled over consecutive values.

With one number a token, the estimate of one token's drift scatters too much to tell a drift of one
token from the noise of many. But a drift stays: it goes on through the residual stream. The root
mean square over the estimates of eight consecutive values scatters a third as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.timeline import LeafKey, Value

WINDOW = 8
_AT_ONCE = 2**13  # numbers, so that they stay in the cache
_OWN_SHARE = 0.1  # of the mean square: a value is not blamed for what was large before it


def pool(values: Sequence[Value], distances: Mapping[LeafKey, Distance]) -> dict[LeafKey, Distance]:
    """Return the distances with ``pooled`` filled in, for values that have seven before them.

    Pooled are values of the same number of tokens, in order of time; one that is equal in golden
    and received counts as no drift.
    """
    by_tokens: dict[int, list[LeafKey]] = {}
    for value in values:
        place = (value.position, value.leaf.at)
        if place in distances and value.tokens > 1:
            by_tokens.setdefault(value.tokens, []).append(place)
    pooled: dict[LeafKey, Distance] = {}
    for tokens, places in by_tokens.items():
        if len(places) < WINDOW or all(distances[place].each is None for place in places):
            continue
        none, step = np.zeros(tokens), max(1, _AT_ONCE // tokens)
        each = [none if (own := distances[place].each) is None else own for place in places]
        for start in range(0, len(places) - WINDOW + 1, step):
            some = slice(start, start + step + WINDOW - 1)
            for place, (size, token) in zip(
                places[some][WINDOW - 1 :], _largest(np.square(each[some])), strict=True
            ):
                pooled[place] = distances[place].with_pooled(size, token)
    return pooled


def _largest(squares: np.ndarray) -> Iterator[tuple[float, int]]:
    """Yield the largest mean of a token over each eight rows, and which token it is."""
    known, count = np.nan_to_num(squares, posinf=1.0), len(squares) - WINDOW + 1
    means = sum((known[i : i + count] for i in range(1, WINDOW)), known[:count]) / WINDOW
    means = np.where(squares[WINDOW - 1 :] >= _OWN_SHARE * means, means, 0.0)
    return zip(np.sqrt(means.max(1)).tolist(), means.argmax(1).tolist(), strict=True)
