"""The norms and the projections of a tensor's tokens <-> the bytes that are kept of them.

A norm only scales, and is kept as bfloat16. A number of a projection is kept in three bytes, as a
whole number of steps. A step is the token's own kept norm times a power of two, which is one for
the tensor: the smallest with which its largest number fits. Neither torch nor pytest is needed.
`docs/decisions/0009-a-sketch-of-three-bytes-a-number.md` has the reasons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

_BITS = 23  # of a number, without its sign
_LARGEST = 2**_BITS - 1
_LARGEST_FLOAT32 = 3e38
_LEAST = 2.0**-24  # of the largest norm: float32 loses the squares of what is far smaller
_AT_ONCE = 2**14  # numbers, of which half a dozen copies stay in the cache
Packed = tuple[bytes, bytes]
"""Norms and sketch; both empty where there are none."""


def sketch_size(numbers: int) -> int:
    """Return how many bytes a sketch of so many numbers takes."""
    return 1 + 3 * numbers


def pack(tensors: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Packed]:
    """Write the norms and the projections, token by token, of many tensors.

    Those of a tensor that float32 cannot hold are left out.
    """
    sizes = [len(sketch) for _, sketch in tensors]
    return [packed for part in _parts(sizes) for packed in _pack(tensors[part])]


def unpack(packed: Sequence[Packed]) -> tuple[np.ndarray, np.ndarray]:
    """Read the norms ``[tensors, tokens]`` and the projections ``[tensors, tokens, numbers]``.

    Of tensors that have as many tokens and numbers, each of them some.
    """
    norms = read_norms(b"".join(norms for norms, _ in packed)).reshape(len(packed), -1)
    data = np.frombuffer(b"".join(sketch for _, sketch in packed), np.uint8)
    data = data.reshape(len(packed), -1)
    powers = data[:, :1].view(np.int8).astype(np.int32)
    whole = np.zeros((len(packed), data.shape[1] // 3, 4), np.uint8)
    whole[:, :, 1:] = data[:, 1:].reshape(len(packed), -1, 3)
    counts = whole.view("<i4") >> 8  # from the upper bytes, so that the sign comes along
    with np.errstate(invalid="ignore", over="ignore"):
        scales = np.maximum(norms, _LEAST * norms.max(1, keepdims=True))
        steps = np.ldexp(scales, powers - _BITS)
        numbers: np.ndarray = counts.reshape(*norms.shape, -1) * steps[:, :, None]
    return norms, numbers


def pack_norms(norms: np.ndarray) -> bytes:
    """Write norms as bfloat16, two bytes each, little-endian: good to 0.4 %, in float32's range."""
    with np.errstate(over="ignore"):
        bits = norms.astype("<f4").view("<u4")
    rounded = bits + 0x7FFF + (bits >> 16 & 1)
    return np.where(np.isfinite(norms), rounded >> 16, bits >> 16).astype("<u2").tobytes()


def read_norms(data: bytes) -> np.ndarray:
    """Read norms as they are kept: little-endian bfloat16."""
    bits = np.frombuffer(data, "<u2").astype("<u4") << 16
    return bits.view("<f4").astype(np.float64)


def _parts(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield what to take together, of tensors with so many numbers each."""
    first = total = 0
    for index, size in enumerate(sizes):
        if total and total + size > _AT_ONCE:
            yield slice(first, index)
            first, total = index, 0
        total += size
    if total:
        yield slice(first, len(sizes))


def _pack(tensors: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[Packed]:
    tokens = np.array([len(norms) for norms, _ in tensors])
    counts = np.array([len(sketch) for _, sketch in tensors])
    norms, numbers = (np.concatenate(of_all) for of_all in zip(*tensors, strict=True))
    first = np.cumsum(counts) - counts
    fits = np.maximum.reduceat(np.abs(numbers), first) < _LARGEST_FLOAT32  # not so for NaN
    fits &= np.maximum.reduceat(norms, np.cumsum(tokens) - tokens) < _LARGEST_FLOAT32
    kept = pack_norms(norms)
    scales = np.repeat(_scales(kept, tokens), np.repeat(counts // tokens, tokens))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shares = np.where(scales > 0, numbers / scales, 0.0)
        powers = np.frexp(np.maximum.reduceat(np.abs(shares), first))[1].clip(-128, 127)
        steps = np.rint(np.ldexp(shares, np.repeat(_BITS - powers, counts)))
    whole = np.where(np.isfinite(steps), steps.clip(-_LARGEST, _LARGEST), 0.0).astype("<i4")
    data = whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    exponents = powers.astype("i1").tobytes()
    number = token = 0
    for index, (count, of_one) in enumerate(zip(counts.tolist(), tokens.tolist(), strict=True)):
        sketch = exponents[index : index + 1] + data[3 * number : 3 * (number + count)]
        both = kept[2 * token : 2 * (token + of_one)], sketch
        yield both if fits[index] else (b"", b"")
        number, token = number + count, token + of_one


def _scales(norms: bytes, tokens: np.ndarray) -> np.ndarray:
    """Return what the numbers of each token are relative to, of tensors of so many tokens."""
    scales = read_norms(norms)
    largest: np.ndarray = np.maximum.reduceat(scales, np.cumsum(tokens) - tokens)
    floors: np.ndarray = np.repeat(_LEAST * largest, tokens)
    floored: np.ndarray = np.maximum(scales, floors)
    return floored
