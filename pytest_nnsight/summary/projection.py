"""Project each token of a tensor onto a few random numbers.

The projection is a CountSketch (Charikar, Chen, Farach-Colton 2002) with 61 buckets a token:
element ``i`` is added to bucket ``i mod 61`` with a random sign. The buckets of a token are then
mixed into fewer numbers by random signs (Johnson and Lindenstrauss 1984), so that a tensor keeps 61
numbers, or one a token where it has more than 61 tokens.

The squared length of a token's projection is an unbiased estimate of its squared norm, and that of
the difference of two projections estimates the difference of the tensors: projections are linear.
From 61 tokens on, the sign of an element depends on its token and on ``i div 61``, which makes the
sum one matrix product. With fewer tokens each element has a sign of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pytest_nnsight.run import BUCKETS, numbers_per_token

_SEED = 0x6E6E7369676874
_MIXING_SEED = _SEED + 1
_NARROW_WIDTH = 512  # up to here a table of all signs is faster than a product a token
_TABLE_ELEMENTS = 1024 * 1024  # up to here a table of all signs stays in the processor's cache
_DOT_WIDTH = 8192  # above 10,000 elements a BLAS uses threads, which changes the order of a sum
_CACHE_BYTES = 64 * 1024 * 1024


def project(values: torch.Tensor) -> torch.Tensor:
    """Return the projections ``[..., tokens, numbers]`` of ``values [..., tokens, width]``."""
    tokens, width = values.shape[-2:]
    numbers = numbers_per_token(tokens)
    if numbers == BUCKETS:
        return _fold(values)
    if numbers > 1:
        mixing = _mixing(tokens, numbers, values.dtype, values.device)
        mixed = torch.matmul(_fold(values)[..., None, :], mixing.mT)[..., 0, :]
        return mixed.mul_(numbers**-0.5)
    stack = values.reshape(-1, tokens, width)
    table = sign_table(tokens, width, values.dtype) if values.is_cpu else None
    if table is None:
        projected = torch.stack([_fold_by_product(tensor) for tensor in stack])
    else:
        with np.errstate(all="ignore"):
            projected = torch.from_numpy(row_products(stack.numpy(), table))
    return projected.view(*values.shape[:-1], 1)


def sign_table(tokens: int, width: int, dtype: torch.dtype) -> np.ndarray | None:
    """Return the signs of all elements ``[tokens, width]``, or ``None`` if they are too many.

    Only for tensors of 61 tokens or more, which have one number a token.
    """
    padded = _power_of_two(tokens)
    if width > _NARROW_WIDTH and padded * width > _TABLE_ELEMENTS:
        return None
    return _table(padded, width, dtype)[:tokens].numpy()


def row_products(rows: np.ndarray, others: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the dot product of each of ``rows`` with the one of ``others`` at the same index.

    numpy uses a single thread here: the order of a sum, and so its last bit, is always the same.
    """
    products: np.ndarray = np.vecdot(rows[..., :_DOT_WIDTH], others[..., :_DOT_WIDTH], out=out)
    for start in range(_DOT_WIDTH, rows.shape[-1], _DOT_WIDTH):
        part = slice(start, start + _DOT_WIDTH)
        products += np.vecdot(rows[..., part], others[..., part])
    return products


def _fold(values: torch.Tensor) -> torch.Tensor:
    """Add up the elements of each token in 61 buckets, each element with a sign of its own."""
    tokens, width = values.shape[-2:]
    signed = values * _signs(tokens, width, values.dtype, values.device)
    rows, tail = divmod(width, BUCKETS)
    main = signed[..., : rows * BUCKETS]
    buckets = main.view(*values.shape[:-1], rows, BUCKETS).sum(-2)
    if tail:
        buckets[..., :tail] += signed[..., rows * BUCKETS :]
    return buckets


def _fold_by_product(tensor: torch.Tensor) -> torch.Tensor:
    """Return one number for each token of ``tensor [tokens, width]``, without a table of signs."""
    (tokens, width), dtype, device = tensor.shape, tensor.dtype, tensor.device
    rows, tail = divmod(width, BUCKETS)
    padded = _power_of_two(tokens)
    signs = _signs(padded, rows + 1, dtype, device)[:tokens]
    form, strides = (tokens, rows, BUCKETS), (width, BUCKETS, 1)
    buckets = torch.bmm(signs[:, None, :rows], tensor.as_strided(form, strides))[:, 0]
    if tail:
        buckets[:, :tail].addcmul_(tensor[:, width - tail :], signs[:, rows:])
    mixing = _mixing(padded, 1, dtype, device)[:tokens, 0]
    projected: torch.Tensor = torch.linalg.vecdot(buckets, mixing)
    return projected


def _power_of_two(tokens: int) -> int:
    """Round up to a power of two, so that prompts of any length share a few tables."""
    return 1 << (tokens - 1).bit_length()


class TensorCache:
    """Cache what a function returns, up to 64 MB; unlike `functools.cache` it can be pickled."""

    def __init__(self, make: Callable[..., torch.Tensor]) -> None:
        self.make = make
        self.tensors: dict[tuple[object, ...], torch.Tensor] = {}

    def __call__(self, *key: object) -> torch.Tensor:
        """Return the tensor for these arguments; drop the oldest ones beyond 64 MB."""
        found = self.tensors.get(key)
        if found is None:
            found = self.tensors[key] = self.make(*key)
            while sum(tensor.nbytes for tensor in self.tensors.values()) > _CACHE_BYTES:
                self.tensors.pop(next(iter(self.tensors)))
        return found

    def __reduce__(self) -> tuple[type[TensorCache], tuple[Callable[..., torch.Tensor]]]:
        """Pickle the function alone."""
        return TensorCache, (self.make,)


@TensorCache
def _table(tokens: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Return the product of each element's sign in its bucket and of the sign of the bucket."""
    cpu = torch.device("cpu")
    signs = _signs(tokens, width // BUCKETS + 1, torch.float32, cpu)
    mixing = _mixing(tokens, 1, torch.float32, cpu)
    return (signs[:, :, None] * mixing).flatten(1)[:, :width].contiguous().to(dtype)


@TensorCache
def _signs(tokens: int, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return random signs ``[tokens, count]``; those of a token depend on its index alone."""
    columns = -(-count // 64) * 64
    return _random_signs(_SEED + columns * 2, tokens, columns)[:, :count].to(device, dtype)


@TensorCache
def _mixing(tokens: int, numbers: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the random signs ``[tokens, numbers, 61]`` that mix buckets into fewer numbers."""
    signs = _random_signs(_MIXING_SEED, tokens * numbers, 64)[:, :BUCKETS]
    return signs.reshape(tokens, numbers, BUCKETS).to(device, dtype)


def _random_signs(key: int, rows: int, columns: int) -> torch.Tensor:
    """Return random signs ``[rows, columns]``, the same in every version of numpy and torch.

    ``columns`` is a multiple of 64, the bits of one word.
    """
    words = np.random.Philox(key=key).random_raw(rows * columns // 64)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")
    return torch.from_numpy(bits.reshape(rows, columns).astype(np.float32) * 2 - 1)
