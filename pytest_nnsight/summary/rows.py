"""Give each token of a mask or of integers a number; equal numbers stand for an equal meaning.

Works on numpy arrays and on torch tensors alike. Goldens are compared without torch, so it is not
imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array", "np.ndarray", "torch.Tensor")
_OFFSET = 0x632BE59BD9B4E019
_FIRST, _SECOND = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64  # those of SplitMix64
_LOW = 0xFFFFFFFF


def mix(values: Array) -> Array:
    """Return a number of 32 bits for each of ``values``, which are int64."""
    mixed = (values + _OFFSET) * _FIRST
    numbers: Array = ((mixed ^ (mixed >> 29)) * _SECOND) >> 32 & _LOW
    return numbers


def numbers_of_sets(is_member: Array, keys: Array) -> Array:
    """Return a number for each set of keys, the last axis: it depends on the members alone."""
    numbers: Array = (is_member * mix(keys)).sum(-1) & _LOW
    return numbers


def numbers_of_lists(values: Array, places: Array) -> Array:
    """Return a number for each list of integers, the last axis."""
    numbers: Array = mix(values + mix(places)).sum(-1) & _LOW
    return numbers


def pack_rows(numbers: np.ndarray) -> bytes:
    """Return the numbers as bytes, four each."""
    return numbers.astype("<u4").tobytes()


def read_rows(data: bytes) -> np.ndarray:
    """Return the numbers that `pack_rows` wrote."""
    return np.frombuffer(data, "<u4")
