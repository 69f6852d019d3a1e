"""The numbers of tensors -> their summaries."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pytest_nnsight.measurement import STATISTICS
from pytest_nnsight.packing import Packed, pack
from pytest_nnsight.run import Summary


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
    """Bring all numbers to the host, in one transfer a device; return the summaries by place."""
    host = _on_host(blocks)
    rows = [
        (row[STATISTICS : STATISTICS + block.tokens], row[STATISTICS + block.tokens :])
        for block, numbers in zip(blocks, host, strict=True)
        for row in numbers
    ]
    packed = iter(pack(rows))
    summaries: dict[int, Summary] = {}
    for block, numbers in zip(blocks, host, strict=True):
        summaries.update(zip(block.places, _summaries(block, numbers, packed), strict=True))
    return summaries


def _on_host(blocks: Sequence[Block]) -> list[np.ndarray]:
    host: dict[int, np.ndarray] = {}
    elsewhere: dict[torch.device, list[int]] = {}
    for index, block in enumerate(blocks):
        if block.numbers.device.type == "cpu":
            host[index] = block.numbers.numpy()
        else:
            elsewhere.setdefault(block.numbers.device, []).append(index)
    for indices in elsewhere.values():
        flat = torch.cat([blocks[index].numbers.flatten() for index in indices]).cpu().numpy()
        ends = np.cumsum([blocks[index].numbers.numel() for index in indices])
        for index, part in zip(indices, np.split(flat, ends[:-1]), strict=True):
            host[index] = part.reshape(blocks[index].numbers.shape)
    return [host[index] for index in range(len(blocks))]


def _summaries(block: Block, numbers: np.ndarray, packed: Iterator[Packed]) -> Iterator[Summary]:
    low, high, total, nan, inf, variance, square, *bits = numbers[:, :STATISTICS].T
    elements = math.prod(block.shape) * (2 if block.dtype.startswith("complex") else 1)
    finite = elements - nan - inf
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / finite
        spread = np.maximum(square / finite - mean * mean, 0.0)
        std = np.sqrt(np.where(np.isnan(variance), spread, variance))
    columns = [low, high, mean, std, finite, nan, inf, *bits]
    for row in zip(*(column.tolist() for column in columns), strict=True):
        norms, sketch = next(packed)
        *statistics, count, nans, infs, high_bits, low_bits = row
        digest, counts = f"{int(high_bits):08x}{int(low_bits):08x}", (int(nans), int(infs))
        if count:
            least, most, middle, width = statistics
            yield Summary(
                block.shape, block.dtype, least, most, middle, width, *counts, norms, sketch, digest
            )
        else:
            yield Summary(block.shape, block.dtype, nan=counts[0], inf=counts[1], digest=digest)


def exact_summary(shape: tuple[int, ...], dtype: str, exact: torch.Tensor) -> Summary:
    """Summarise what is compared by its exact values: bounds and mean to read, and a digest."""
    values = exact.cpu().contiguous().reshape(-1)
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
