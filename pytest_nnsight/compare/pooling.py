"""Distances of single tokens -> the same, pooled over consecutive values.

With one number a token, the estimate of one token's drift scatters too much to tell a drift of one
token from the noise of many. But a drift stays: it goes on through the residual stream. The root
mean square over the estimates of eight consecutive values scatters a third as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.timeline import Place, Value

WINDOW = 8
_OWN_SHARE = 0.1  # of the mean square: a value is not blamed for what was large before it


def pool(values: Sequence[Value], distances: Mapping[Place, Distance]) -> dict[Place, Distance]:
    """Return the distances with ``pooled`` filled in, for values that have seven before them.

    Pooled are values of the same number of tokens, in order of time; one that is equal in golden
    and received counts as no drift.
    """
    by_tokens: dict[int, list[Place]] = {}
    for value in values:
        place = (value.position, value.leaf.at)
        if place in distances and value.tokens > 1:
            by_tokens.setdefault(value.tokens, []).append(place)
    pooled: dict[Place, Distance] = {}
    for tokens, places in by_tokens.items():
        if len(places) < WINDOW or all(distances[place].each is None for place in places):
            continue
        each = [distances[place].each for place in places]
        squares = np.array([np.zeros(tokens) if e is None else np.square(e) for e in each])
        sums = np.cumsum(np.vstack([np.zeros(tokens), np.nan_to_num(squares, posinf=1.0)]), 0)
        means = (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW
        own = squares[WINDOW - 1 :]
        means = np.where(own >= _OWN_SHARE * means, means, 0.0)
        for place, row in zip(places[WINDOW - 1 :], means, strict=True):
            token = int(row.argmax())
            pooled[place] = replace(
                distances[place], pooled=float(np.sqrt(row[token])), pooled_token=token
            )
    return pooled
