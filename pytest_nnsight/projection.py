"""The random projection of a tensor to 61 numbers.

A CountSketch (Charikar, Chen, Farach-Colton 2002) with 61 buckets: element ``i`` of the flattened
tensor is added to bucket ``i mod 61`` with a random sign that depends on ``i div 61``. The squared
distance of two sketches is an unbiased estimate of the squared distance of the two tensors. It is
computed as one vector-matrix product, without a table of signs as long as the tensor.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch

BUCKETS = 61
_SEED = 0x6E6E7369676874


def project(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the sketch of ``values`` with each token multiplied by its weight.

    ``values`` is ``[..., tokens, width]`` and ``weights`` ``[..., tokens]``; the result is
    ``[..., 61]``. Linear in ``values``. The product with the weights is never made: a row of 61
    elements is scaled by the weight of the token it starts in, and rows that straddle two tokens
    are corrected.
    """
    *lead, tokens, width = values.shape
    count = math.prod(lead)
    values, weights = values.reshape(count, tokens, width), weights.reshape(count, tokens)
    if width % BUCKETS == 0:  # each channel would keep to one bucket for all tokens
        values, width = torch.nn.functional.pad(values, (0, 1)), width + 1
    if width < BUCKETS:
        values = (values * weights[:, :, None]).reshape(count, 1, tokens * width)
        weights = values.new_ones(count, 1)
        tokens, width = 1, tokens * width
    flat = values.reshape(count, tokens * width)
    rows = flat.shape[1] // BUCKETS
    signs = _signs(_power_of_two(rows + 1), values.dtype, values.device)
    main = flat[:, : rows * BUCKETS].view(count, rows, BUCKETS)
    sketch = _sum_rows(signs[:rows] * weights[:, _first_tokens(rows, width, values.device)], main)
    row, token, mask = _straddling(rows, tokens, width, values.dtype, values.device)
    if len(row):
        change = signs[row] * (weights[:, token] - weights[:, token - 1])
        sketch = sketch + _sum_rows(change, main[:, row] * mask)
    tail = flat[:, rows * BUCKETS :] * (signs[rows] * weights[:, -1:])
    sketch[:, : tail.shape[1]] += tail
    return sketch.reshape(*lead, BUCKETS)


def _sum_rows(factors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return ``sum_r factors[k, r] * rows[k, r, :]`` as ``[k, 61]``."""
    if len(rows) == 1:  # a plain vector-matrix product is faster than a batch of one
        return (factors[0] @ rows[0])[None]
    return torch.bmm(factors[:, None, :], rows)[:, 0]


def _power_of_two(count: int) -> int:
    return max(1024, 1 << (count - 1).bit_length())


@lru_cache(maxsize=64)
def _signs(count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the first ``count`` random signs, the same in every version of numpy and torch."""
    words = np.random.Philox(key=_SEED).random_raw(-(-count // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")[:count]
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1).to(device=device, dtype=dtype)


@lru_cache(maxsize=256)
def _first_tokens(rows: int, width: int, device: torch.device) -> torch.Tensor:
    """Return for each row of 61 elements the token its first element belongs to."""
    return torch.arange(rows, device=device) * BUCKETS // width


@lru_cache(maxsize=256)
def _straddling(
    rows: int, tokens: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the rows that hold the start of a token, that token, and a mask from there on."""
    token = torch.arange(1, tokens, device=device)
    start = token * width
    row, offset = start // BUCKETS, start % BUCKETS
    inside = (offset > 0) & (row < rows)
    row, offset, token = row[inside], offset[inside], token[inside]
    mask = torch.arange(BUCKETS, device=device)[None, :] >= offset[:, None]
    return row, token, mask.to(dtype)
