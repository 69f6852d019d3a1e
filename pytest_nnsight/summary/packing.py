"""Pack the norms and projections of a tensor's tokens into bytes, and unpack them.

A norm is only a scale, so it is stored as bfloat16. A number of a projection takes three bytes: it
is a whole number of steps. A step is the token's packed norm times a power of two, the smallest one
that fits the largest number of the tensor. Goldens are read without torch, so it is not used here.
`docs/decisions/0006-three-bytes-for-a-number-of-a-sketch.md` has the reasons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

BITS = 23  # of a number, without its sign
_LARGEST = 2**BITS - 1
_LARGEST_FLOAT32 = 3e38
_SMALLEST_SCALE = 2.0**-24  # of the largest norm: float32 loses the squares of smaller numbers
_CHUNK = 2**15  # numbers packed at once, so that six copies of them stay in the processor's cache
Packed = tuple[bytes, bytes]
"""Norms and sketch; both empty where there are none."""


def sketch_size(numbers: int) -> int:
    """Return the size in bytes of a sketch with that many numbers."""
    return 1 + 3 * numbers


def pack(norms: np.ndarray, projections: np.ndarray) -> list[Packed]:
    """Pack norms ``[tensors, tokens]`` and projections ``[tensors, tokens * numbers]``.

    A tensor that float32 cannot hold gets empty bytes.
    """
    if not len(norms):
        return []
    numbers = projections.reshape(*norms.shape, -1)
    many = max(1, _CHUNK // numbers[0].size)
    parts = [slice(first, first + many) for first in range(0, len(norms), many)]
    return [packed for part in parts for packed in _pack(norms[part], numbers[part])]


def unpack(packed: Sequence[Packed]) -> tuple[np.ndarray, np.ndarray]:
    """Return norms ``[tensors, tokens]`` and projections ``[tensors, tokens, numbers]``.

    All tensors have the same count of tokens and numbers, and none is empty.
    """
    norms = read_norms(b"".join(norms for norms, _ in packed)).reshape(len(packed), -1)
    data = np.frombuffer(b"".join(sketch for _, sketch in packed), np.uint8)
    data = data.reshape(len(packed), -1)
    powers = data[:, :1].view(np.int8).astype(np.int32)
    whole = np.zeros((len(packed), data.shape[1] // 3, 4), np.uint8)
    for byte in range(3):  # one by one: a copy of three bytes each is slow
        whole[:, :, 1 + byte] = data[:, 1 + byte :: 3]
    counts = whole.view("<i4") >> 8  # from the upper bytes, to keep the sign
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.ldexp(_scales(norms), powers - BITS)
        numbers: np.ndarray = counts.reshape(*norms.shape, -1) * steps[:, :, None]
    return norms, numbers


def pack_norms(norms: np.ndarray) -> bytes:
    """Return norms as little-endian bfloat16: exact to 0.4 %, with float32's range."""
    with np.errstate(over="ignore"):
        bits = norms.astype("<f4").view("<u4")
    rounded = bits + 0x7FFF + (bits >> 16 & 1)
    return np.where(np.isfinite(norms), rounded >> 16, bits >> 16).astype("<u2").tobytes()


def read_norms(data: bytes) -> np.ndarray:
    """Return the float64 norms of what `pack_norms` wrote."""
    bits = np.frombuffer(data, "<u2").astype("<u4") << 16
    return bits.view("<f4").astype(np.float64)


def _pack(norms: np.ndarray, numbers: np.ndarray) -> Iterator[Packed]:
    packed_norms = pack_norms(norms)
    scales = _scales(read_norms(packed_norms).reshape(norms.shape))[:, :, None]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        largest = np.maximum(np.abs(numbers.reshape(len(norms), -1)).max(1), norms.max(1))
        shares = numbers / scales
        shares[np.broadcast_to(scales <= 0, shares.shape)] = 0.0
        shares = shares.reshape(len(norms), -1)
        largest_share = np.abs(shares).max(1)
        powers = np.frexp(largest_share)[1].clip(-128, 127)
        steps = np.rint(shares * np.ldexp(1.0, BITS - powers)[:, None])
    fits = (largest < _LARGEST_FLOAT32).tolist()  # false for NaN
    if not np.isfinite(largest_share).all():
        steps[~np.isfinite(steps)] = 0.0
    counts = steps.clip(-_LARGEST, _LARGEST).astype("<i4").view(np.uint8).reshape(*shares.shape, 4)
    sketches = np.empty((len(norms), sketch_size(shares.shape[1])), np.uint8)
    sketches[:, 0] = powers.astype("i1").view(np.uint8)
    for byte in range(3):  # the fourth repeats the sign
        sketches[:, 1 + byte :: 3] = counts[:, :, byte]
    data, size, norms_size = sketches.tobytes(), sketches.shape[1], 2 * norms.shape[1]
    for row, is_stored in enumerate(fits):
        token_norms = packed_norms[row * norms_size : (row + 1) * norms_size]
        yield (token_norms, data[row * size : (row + 1) * size]) if is_stored else (b"", b"")


def _scales(norms: np.ndarray) -> np.ndarray:
    """Return the scale of each token, by which its numbers are divided."""
    scales: np.ndarray = np.maximum(norms, _SMALLEST_SCALE * norms.max(1, keepdims=True))
    return scales
