"""The numbers of tensors -> their summaries."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch

from pytest_nnsight.run import Summary
from pytest_nnsight.summary.packing import pack
from pytest_nnsight.summary.statistics import STATISTICS


@dataclass(frozen=True, slots=True)
class Block:
    """The numbers of several tensors of one shape and dtype, as `measured_numbers` returns them.

    ``places`` are those of the summaries among all of a run.
    """

    shape: tuple[int, ...]
    dtype: str
    tokens: int
    places: Sequence[int]
    numbers: torch.Tensor


def summarize_blocks(blocks: Sequence[Block]) -> dict[int, Summary]:
    """Return the summaries by place; the numbers are on the host."""
    alike: dict[int, list[Block]] = {}
    for block in blocks:
        alike.setdefault(block.tokens, []).append(block)
    return {
        place: summary
        for tokens, of_one in alike.items()
        for place, summary in _summaries(tokens, of_one)
    }


def _summaries(tokens: int, blocks: Sequence[Block]) -> Iterable[tuple[int, Summary]]:
    """Make the summaries of tensors that have as many tokens."""
    counts = [len(block.places) for block in blocks]
    elements = np.repeat([_elements(block) for block in blocks], counts)
    numbers = np.concatenate([block.numbers.numpy() for block in blocks])
    low, high, total, nan, inf, variance, square, upper, lower = numbers[:, :STATISTICS].T
    finite = elements - nan - inf
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / finite
        spread = np.maximum(square / finite - mean * mean, 0.0)
        std = np.sqrt(np.where(np.isnan(variance), spread, variance))
    empty = np.flatnonzero(finite == 0).tolist()
    columns = [column.tolist() for column in (low, high, mean, std)]
    whole = [column.astype(np.int64).tolist() for column in (nan, inf)]
    packed = pack(numbers[:, STATISTICS : STATISTICS + tokens], numbers[:, STATISTICS + tokens :])
    for index in empty:
        packed[index] = (b"", b"")
        for column in columns:
            column[index] = None
    kinds = [(block.shape, block.dtype) for block in blocks for _ in block.places]
    # Made without a call of Python's for each: there are ten thousand in a short generation.
    shapes_and_more = (*zip(*kinds, strict=True), *columns, *whole, *zip(*packed, strict=True))
    rows = zip(*shapes_and_more, _digits(upper, lower), repeat(0.0))
    made = map(tuple.__new__, repeat(Summary), rows)
    return zip([place for block in blocks for place in block.places], made, strict=True)


def _digits(upper: np.ndarray, lower: np.ndarray) -> list[str]:
    """Write two whole numbers of 32 bits as one of 64, in hexadecimal digits."""
    words = upper.astype(np.uint64) << np.uint64(32) | lower.astype(np.uint64)
    digits = words.astype(">u8").tobytes().hex()
    return [digits[start : start + 16] for start in range(0, len(digits), 16)]


def _elements(block: Block) -> int:
    return math.prod(block.shape) * (2 if block.dtype.startswith("complex") else 1)


def exact_summary(shape: tuple[int, ...], dtype: str, exact: torch.Tensor) -> Summary:
    """Summarise what is compared by its exact values: bounds and mean to read, and a digest."""
    values = exact.contiguous().reshape(-1)
    digest = hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
    numbers, is_float = values.double(), exact.is_floating_point()
    finite = numbers[numbers.isfinite()]
    largest = float(finite.abs().max()) if len(finite) else 0.0
    scale = 2.0 ** (math.frexp(largest)[1] - 1) if largest else 1.0
    shares = finite / scale  # whose squares are in range
    return Summary(
        shape=shape,
        dtype=dtype,
        minimum=float(finite.min()) if len(finite) else None,
        maximum=float(finite.max()) if len(finite) else None,
        mean=float(shares.mean()) * scale if len(finite) else None,
        std=float(shares.std(correction=0)) * scale if is_float and len(finite) else None,
        nan=int(numbers.isnan().sum()),
        inf=int(numbers.isinf().sum()),
        digest=digest,
    )
