"""Numbers <-> their text in a golden."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.golden.encoding import (
    LONGEST_ROW,
    decode_ranges,
    encode_ranges,
    from_base64,
    read_noise,
    shortest,
    to_base64,
)

quick = settings(deadline=None, max_examples=200)
steady = st.builds(
    lambda first, step, count: [first + step * i for i in range(count)],
    st.integers(-5, 5),
    st.integers(-2, 2),
    st.integers(0, 20),
)
row = st.lists(steady | st.lists(st.integers(-(2**70), 2**70), max_size=3), max_size=5).map(
    lambda pieces: tuple(number for piece in pieces for number in piece)
)


@quick
@given(st.lists(row, max_size=4).map(tuple))
def test_ranges_decode_to_the_same_rows(rows: tuple[tuple[int, ...], ...]) -> None:
    runs = encode_ranges(rows)
    assert decode_ranges(runs) == rows
    assert decode_ranges(json.loads(json.dumps(runs))) == rows
    for numbers, made in zip(rows, runs, strict=True):
        assert len(made) <= max(1, len(numbers))
        assert all(count > 0 for _, _, count in made)


@pytest.mark.parametrize(
    ("numbers", "runs"),
    [
        ((), []),
        ((7,), [[7, 0, 1]]),
        ((0, 0, 0, 1, 1, 1, 1), [[0, 0, 3], [1, 0, 4]]),
        ((3, 4, 5, 6), [[3, 1, 4]]),
        ((9, 7, 5), [[9, -2, 3]]),
        ((1, 1, 0, 1, 2, 3), [[1, 0, 2], [0, 1, 4]]),
    ],
)
def test_a_range_is_first_step_and_count(numbers: tuple[int, ...], runs: list[list[int]]) -> None:
    assert encode_ranges((numbers,)) == [runs]


def test_a_row_longer_than_any_prompt_is_refused_before_it_is_made() -> None:
    with pytest.raises(ValueError, match="too long"):
        decode_ranges([[[0, 0, LONGEST_ROW + 1]]])
    with pytest.raises(ValueError, match="too long"):
        decode_ranges([[[0, 0, 10**30]]])


@quick
@given(st.floats(-1e38, 1e38))
def test_seven_digits_of_a_number_survive(value: float) -> None:
    short = shortest(value)
    assert short == pytest.approx(value, rel=5e-7, abs=0)
    assert json.loads(json.dumps(short)) == short
    assert shortest(short) == short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0, "2"),
        (-0.0, "0"),
        (0.100000001490116, "0.1"),
        (1e-5, "1e-05"),
        (123456789.0, "123456800"),
        (1e20, "1e+20"),
    ],
)
def test_numbers_are_as_short_as_they_can_be(value: float, text: str) -> None:
    assert json.dumps(shortest(value)) == text


@quick
@given(st.binary(max_size=50))
def test_base64_gives_back_the_bytes(data: bytes) -> None:
    assert from_base64(to_base64(data), len(data)) == data
    assert from_base64("", 7) == b""


@pytest.mark.parametrize("text", ["a", "ab=", "!!!!", "YWJj\n", 7, None, ["YWJj"]])
def test_invalid_base64_is_refused(text: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        from_base64(text, 3)


def test_bytes_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^there are 3 bytes of numbers, not 4$"):
        from_base64("YWJj", 4)


@pytest.mark.parametrize("value", [-1e-9, 1, 1.5, float("nan"), float("inf"), "x", None, [0.1]])
def test_noise_is_at_least_zero_and_below_one(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        read_noise(value)
    assert read_noise(0) == 0.0
    assert read_noise(0.99) == 0.99
