"""The random projection of each token of a tensor.

A CountSketch (Charikar, Chen, Farach-Colton 2002) with 61 buckets a token: element ``i`` is added
to bucket ``i mod 61`` with a random sign that depends on the token and on ``i div 61``, which makes
it one product. The same shift of all channels then falls alike into all buckets, so that many
tokens have to average it out; up to 60 tokens, each element has a sign of its own. Where a tensor
has several tokens, each one's buckets are mixed down to fewer numbers by random signs (Johnson and
Lindenstrauss 1984), so that a tensor keeps 61 numbers, or one a token where that is more.

The squared length of a token's projection is an unbiased estimate of its squared norm, and since
the projection is linear, the same holds for the difference of two tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pytest_nnsight.run import BUCKETS, numbers_per_token

_SEED = 0x6E6E7369676874
_MIXING = _SEED + 1
_NARROW = 512  # values of a token, for which a table of all signs is faster than many products
_FEW = 1024 * 1024  # elements of a tensor whose signs lie in the cache beside it: a table as well
_RUN = 8192  # values of a product; of more than 10,000 a BLAS makes several threads' work
_MOST_KEPT = 64 * 1024 * 1024  # bytes of signs


def project(values: torch.Tensor) -> torch.Tensor:
    """Return the projections ``[..., tokens, numbers]`` of ``values``, ``[..., tokens, width]``.

    Linear in ``values``.
    """
    tokens, width = values.shape[-2:]
    numbers = numbers_per_token(tokens)
    if numbers == 1:
        one = Projection(tokens, width, values.dtype, values.device)
        many = values.reshape(-1, tokens, width)
        return one(many.unbind()).view(*values.shape[:-1], 1)
    buckets = _fold(values)
    if numbers == BUCKETS:
        return buckets
    mixing = _mixing(tokens, numbers, values.dtype, values.device)
    mixed = torch.matmul(buckets[..., None, :], mixing.mT)[..., 0, :]
    return mixed.mul_(numbers**-0.5)


class Projection:
    """The projection of tensors ``[tokens, width]``, one at a time, where a token has one number.

    As `project`, with all at hand that does not depend on the values.
    """

    def __init__(self, tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows, self.tail = divmod(width, BUCKETS)
        many = 1 << (tokens - 1).bit_length()  # prompts of any length share a few tables
        self.table: torch.Tensor | None = None
        if width <= _NARROW or many * width <= _FEW:
            self.table = _table(many, width, dtype, device)[:tokens]
            return
        signs = _signs(many, self.rows + 1, dtype, device)[:tokens]
        self.signs, self.last = signs[:, None, : self.rows], signs[:, self.rows :]
        self.mixing = _mixing(many, 1, dtype, device)[:tokens, 0]

    def __call__(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the number of each token, ``[tensors, tokens]``."""
        if self.table is not None and self.table.is_cpu:
            signs = self.table.numpy()
            with np.errstate(all="ignore"):
                products = [row_products(values.numpy(), signs) for values in tensors]
            return torch.from_numpy(np.stack(products))
        if self.table is not None:
            return torch.stack([_dot(values, self.table) for values in tensors])
        tokens, width = tensors[0].shape
        form, strides = (tokens, self.rows, BUCKETS), (width, BUCKETS, 1)
        size = (len(tensors), tokens, 1, BUCKETS)
        buckets = torch.empty(size, dtype=self.signs.dtype, device=self.signs.device)
        for values, into in zip(tensors, buckets.unbind(), strict=True):
            torch.bmm(self.signs, values.as_strided(form, strides), out=into)
        buckets = buckets[:, :, 0]
        if self.tail:
            tails = torch.stack(
                [values.narrow(1, width - self.tail, self.tail) for values in tensors]
            )
            buckets[:, :, : self.tail].addcmul_(tails, self.last)
        return _dot(buckets, self.mixing)


def row_products(
    rows: np.ndarray, others: np.ndarray, into: np.ndarray | None = None
) -> np.ndarray:
    """Multiply each row with its other and add up: in one thread, and so always in one order.

    By numpy, which takes half the time that torch does.
    """
    found: np.ndarray = np.vecdot(rows[..., :_RUN], others[..., :_RUN], out=into)
    for start in range(_RUN, rows.shape[-1], _RUN):
        run = slice(start, start + _RUN)
        found += np.vecdot(rows[..., run], others[..., run])
    return found


def _dot(values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = torch.linalg.vecdot(values, others)
    return product


def _fold(values: torch.Tensor) -> torch.Tensor:
    """Add the elements of each token up in 61 buckets with signs: ``[..., tokens, 61]``."""
    tokens, width = values.shape[-2:]
    signed = values * _signs(tokens, width, values.dtype, values.device)
    rows, tail = divmod(width, BUCKETS)
    main = signed[..., : rows * BUCKETS]
    buckets = main.view(*values.shape[:-1], rows, BUCKETS).sum(-2)
    if tail:
        buckets[..., :tail] += signed[..., rows * BUCKETS :]
    return buckets


class Kept:
    """Keeps the last results of a function, up to 64 MB of them.

    Unlike one of ``functools`` it can be sent to another process, without what it has kept.
    """

    def __init__(self, make: Callable[..., torch.Tensor]) -> None:
        self.make = make
        self.known: dict[tuple[object, ...], torch.Tensor] = {}

    def __call__(self, *key: object) -> torch.Tensor:
        """Return the result for these arguments."""
        found = self.known.get(key)
        if found is None:
            found = self.make(*key)
            self.known[key] = found
            while sum(kept.nbytes for kept in self.known.values()) > _MOST_KEPT:
                self.known.pop(next(iter(self.known)))
        return found

    def __reduce__(self) -> tuple[type[Kept], tuple[Callable[..., torch.Tensor]]]:
        """Leave behind what was kept."""
        return Kept, (self.make,)


@Kept
def _table(tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the sign ``[tokens, width]`` of each element, where a token has one number.

    The product of its sign on the way to a bucket and of that of the bucket.
    """
    cpu = torch.device("cpu")
    signs = _signs(tokens, width // BUCKETS + 1, torch.float32, cpu)
    mixing = _mixing(tokens, 1, torch.float32, cpu)
    return (signs[:, :, None] * mixing).flatten(1)[:, :width].contiguous().to(device, dtype)


@Kept
def _signs(tokens: int, count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return random signs ``[tokens, count]``; those of a token depend on its index alone."""
    columns = -(-count // 64) * 64
    return _random_signs(_SEED + columns * 2, tokens, columns)[:, :count].to(device, dtype)


@Kept
def _mixing(tokens: int, numbers: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the random signs ``[tokens, numbers, 61]`` that mix buckets into fewer numbers."""
    signs = _random_signs(_MIXING, tokens * numbers, 64)[:, :BUCKETS]
    return signs.reshape(tokens, numbers, BUCKETS).to(device, dtype)


def _random_signs(key: int, rows: int, columns: int) -> torch.Tensor:
    """Return ``[rows, columns]`` random signs, the same in every version of numpy and torch.

    ``columns`` is a multiple of 64, the bits of one word.
    """
    words = np.random.Philox(key=key).random_raw(rows * columns // 64)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little")
    return torch.from_numpy(bits.reshape(rows, columns).astype(np.float32) * 2 - 1)
