"""Norms and sketches and the bytes of a golden: how exact they are, also for odd numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from builders import distance, normal, summarize
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.run import numbers_per_token
from pytest_nnsight.summary import packing
from pytest_nnsight.summary.packing import Packed, pack, pack_norms, read_norms, sketch_size, unpack
from pytest_nnsight.summary.projection import project
from pytest_nnsight.summary.statistics import tokens_of

quick = settings(deadline=None, max_examples=100)
BFLOAT16 = 2**-8  # the largest relative error of a number that is rounded to 8 bits
sizes = st.floats(1e-30, 1e30) | st.just(0.0)
Numbers = tuple[np.ndarray, np.ndarray]


def drawn(norms: list[float], numbers: int, share: float, seed: int) -> Numbers:
    """Return norms, and numbers up to ``share`` times their token's norm."""
    each = np.random.default_rng(seed).uniform(-share, share, (len(norms), numbers))
    return np.array(norms), (each * np.array(norms)[:, None]).flatten()


def packed(tensor: tuple[np.ndarray, np.ndarray]) -> Packed:
    """Return the bytes of one tensor's norms and numbers."""
    return packed_together([tensor])[0]


def packed_together(tensors: list[tuple[np.ndarray, np.ndarray]]) -> list[Packed]:
    norms, numbers = (np.stack(of_all) for of_all in zip(*tensors, strict=True))
    return pack(norms, numbers)


def step(sketch: bytes) -> float:
    """Return the step of a sketch, in norms of its tokens."""
    return float(2.0 ** (np.frombuffer(sketch[:1], "i1")[0] - 23.0))


@quick
@given(
    st.lists(sizes, min_size=1, max_size=70),
    st.sampled_from([1, 2, 9, 61]),
    st.floats(1e-3, 10),
    st.integers(0, 2**20),
)
def test_a_number_is_kept_to_half_a_step_of_its_own_tokens_norm(
    norms: list[float], numbers: int, share: float, seed: int
) -> None:
    exact = drawn(norms, numbers, share, seed)
    kept, sketch = packed(exact)
    assert (len(kept), len(sketch)) == (2 * len(norms), sketch_size(len(exact[1])))
    assert step(sketch) <= 2**-22 * share * 1.01 or not any(exact[1])
    scales = np.maximum(read_norms(kept), 2**-24 * read_norms(kept).max())[:, None]
    wrong = np.abs(unpack([(kept, sketch)])[1][0] - exact[1].reshape(len(norms), -1))
    assert (wrong <= 1.001 * step(sketch) * scales).all()
    inside = np.abs(exact[1].reshape(wrong.shape)) < scales * step(sketch) * (2**23 - 1)
    assert (wrong <= 0.5001 * step(sketch) * scales)[inside].all()


@quick
@given(st.lists(sizes, min_size=1, max_size=9), st.sampled_from([1, 9]), st.integers(0, 2**20))
def test_what_was_read_is_packed_to_the_same_bytes(
    norms: list[float], numbers: int, seed: int
) -> None:
    once = packed(drawn(norms, numbers, 1.0, seed))
    assert pack(read_norms(once[0])[None], unpack([once])[1]) == [once]


@pytest.mark.parametrize("tokens", [1, 7, 61, 256, 2048])
def test_a_step_is_far_below_what_float32_drifts(tokens: int) -> None:
    """On other kernels by 1e-6; two sketches differ by 0.41 steps a number, by rounding alone."""
    summary = summarize(normal(1, tokens, 576))
    numbers = numbers_per_token(tokens)
    assert 0.41 * step(summary.sketch) * numbers**0.5 < 4e-7


@pytest.mark.parametrize("tokens", [1, 7, 61, 256])
def test_a_small_drift_is_estimated_as_well_as_without_rounding(tokens: int) -> None:
    """The drift is 1e-5, the default tolerance of float32."""
    x = normal(1, tokens, 576, seed=1)
    y = x + 1e-5 * normal(1, tokens, 576, seed=2)
    numbers = [project(tokens_of(each).double()).numpy() for each in (x, y)]
    squares = np.square(numbers[0] - numbers[1]).sum(1) / np.square(tokens_of(x).numpy()).sum(1)
    exact = np.sqrt(squares.mean())
    assert distance(summarize(x), summarize(y)).rms == pytest.approx(exact, rel=0.02)


def test_tensors_packed_together_are_packed_as_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some thousand numbers are packed at once, more one part after the other."""
    tensors = [drawn([1.0, 3.0, 0.0], 7, 2.0**i, i) for i in range(9)]
    tensors.append((np.zeros(3), np.zeros(21)))
    each = [packed(tensor) for tensor in tensors]
    for at_once in (1, 30, 2**16):
        monkeypatch.setattr(packing, "_CHUNK", at_once)
        assert packed_together(tensors) == each
    assert pack(np.zeros((0, 3)), np.zeros((0, 21))) == []


def test_tensors_of_one_size_are_read_together_as_each_alone() -> None:
    tensors = [drawn([1.0, 3.0, 0.0], 7, 2.0**i, i) for i in range(9)]
    together = packed_together([*tensors, (np.zeros(3), np.zeros(21))])
    norms, numbers = unpack(together)
    assert (norms.shape, numbers.shape) == ((10, 3), (10, 3, 7))
    for index, one in enumerate(together):
        np.testing.assert_array_equal(norms[index], read_norms(one[0]))
        np.testing.assert_array_equal(numbers[index], unpack([one])[1][0])
    np.testing.assert_allclose(numbers[3].flatten(), tensors[3][1], atol=1e-5)


def test_zeros_are_zero_bytes_in_a_sketch() -> None:
    assert packed((np.zeros(5), np.zeros(5 * 13))) == (bytes(10), bytes(1 + 3 * 65))


def test_a_token_whose_squares_underflow_is_packed_with_others() -> None:
    """Its norm is zero, its numbers are not; the other tokens lose nothing by it."""
    norms, numbers = np.array([3.0, 0.0]), np.array([1.0, -2.0, 1e-7, -2e-9])
    kept, sketch = packed((norms, numbers))
    assert step(sketch) == 2**-23
    np.testing.assert_allclose(unpack([(kept, sketch)])[1][0], [[1, -2], [1e-7, -2e-9]], 1e-4)


@pytest.mark.parametrize("odd", [3.1e38, np.inf, np.nan])
def test_what_float32_cannot_hold_is_left_out(odd: float) -> None:
    plain = drawn([1.0, 2.0], 7, 1.0, 0)
    for tensor in ((np.array([1.0, odd]), plain[1]), (plain[0], np.full(14, odd))):
        assert packed_together([plain, tensor, plain]) == [packed(plain), (b"", b""), packed(plain)]


def test_the_bytes_are_as_the_format_says() -> None:
    """A power of two, then numbers of 24 bits from the lowest byte on, in the norm's steps."""
    kept, sketch = packed((np.array([2.0, 4.0]), np.array([1.5, -2.0, 1.0, 0.0])))
    assert kept.hex(" ", 2) == "0040 8040"
    assert sketch.hex() == "01" + "000030" + "0000c0" + "000010" + "000000"


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_rounded_up_beyond_the_largest_number_is_the_largest(sign: int) -> None:
    """One more would be read with the other sign."""
    norms, numbers = np.ones((1, 1)), np.full((1, 61), sign * (1 - 2.0**-26))
    _, found = unpack(pack(norms, numbers))
    assert np.abs(found - numbers.reshape(found.shape)).max() <= 2.0**-23


@quick
@given(st.floats(1e-38, 3e38, allow_subnormal=False))
def test_norms_are_good_to_four_in_a_thousand(norm: float) -> None:
    assert read_norms(pack_norms(np.array([norm])))[0] == pytest.approx(norm, rel=BFLOAT16)


def test_norms_are_rounded_to_the_nearest_even() -> None:
    """As torch rounds to bfloat16, so that norms are the same wherever they are packed."""
    norms = normal(1000, seed=3).abs() * 10 ** normal(1000, seed=4)
    edges = torch.tensor([0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 3.38e38, math.inf, math.nan])
    together = torch.cat([norms, edges])
    expected = together.bfloat16().view(torch.int16).numpy().tobytes()
    assert pack_norms(together.double().numpy())[: 2 * 1006] == expected[: 2 * 1006]
    assert math.isnan(read_norms(pack_norms(np.array([math.nan])))[0])
