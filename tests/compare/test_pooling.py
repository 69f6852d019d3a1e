"""The drift of one token, averaged over eight consecutive values."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from builders import make_call, make_summary

from pytest_nnsight.compare.distance import INFINITE, SAME, Distance
from pytest_nnsight.compare.pooling import WINDOW, pool
from pytest_nnsight.compare.timeline import Value, timeline
from pytest_nnsight.run import Call, Leaf

TOKENS = 7


def drift(*each: float) -> Distance:
    return Distance(max(each), max(each), int(np.argmax(each)), per_token=np.array(each))


def one_token(size: float, token: int = 3) -> Distance:
    each = np.zeros(TOKENS)
    each[token] = size
    return drift(*each)


def values_of(count: int, shape: tuple[int, ...] = (1, TOKENS, 64)) -> list[Value]:
    """Return the values of ``count`` calls with one output each."""
    return timeline([make_call(f"h.{i}", make_summary(shape=shape, seed=i)) for i in range(count)])


def pooled(distances: Sequence[Distance]) -> list[Distance]:
    """Pool the distances of consecutive calls; return all distances."""
    distances_by_leaf = {(index, "out"): distance for index, distance in enumerate(distances)}
    distances_by_leaf |= pool(values_of(len(distances)), distances_by_leaf)
    return list(distances_by_leaf.values())


def test_a_token_with_a_constant_drift_is_pooled_to_its_size() -> None:
    found = pooled([one_token(0.5)] * 12)
    assert [value.pooled for value in found[: WINDOW - 1]] == [0.0] * 7
    assert [value.pooled for value in found[WINDOW - 1 :]] == pytest.approx([0.5] * 5)
    assert {value.pooled_token for value in found[WINDOW - 1 :]} == {3}


def test_pooled_is_the_root_mean_square_of_the_last_eight() -> None:
    sizes = [float(i) for i in range(20)]
    found = pooled([one_token(size) for size in sizes])
    for index in range(WINDOW - 1, 20):
        last = sizes[index - WINDOW + 1 : index + 1]
        expected = math.sqrt(sum(size**2 for size in last) / WINDOW)
        assert found[index].pooled == pytest.approx(expected)


def test_a_single_value_of_eight_counts_a_third() -> None:
    found = pooled([SAME] * 7 + [one_token(1.0)] + [SAME] * 8)
    assert found[7].pooled == pytest.approx(8**-0.5)
    assert found[15].pooled == 0.0


def test_the_token_that_drifts_longest_is_pooled_not_the_worst_of_one_value() -> None:
    steady, spike = one_token(0.5, token=1), drift(0, 0.5, 0, 0, 0, 0, 0.9)
    found = pooled([steady] * 7 + [spike])
    assert (found[7].token, found[7].pooled_token) == (6, 1)
    assert found[7].pooled == pytest.approx(0.5)


def test_pooling_changes_nothing_else_of_a_distance() -> None:
    before = one_token(0.5)
    after = pooled([before] * 8)[7]
    assert (after.rms, after.worst, after.token) == (before.rms, before.worst, before.token)
    assert after.per_token is before.per_token


def test_equal_values_are_not_pooled() -> None:
    assert pool(values_of(9), {(i, "out"): SAME for i in range(9)}) == {}


def test_fewer_than_eight_values_are_not_pooled() -> None:
    assert pool(values_of(7), {(i, "out"): one_token(1.0) for i in range(7)}) == {}
    assert len(pool(values_of(8), {(i, "out"): one_token(1.0) for i in range(8)})) == 1


def test_nan_is_pooled_as_zero_and_inf_as_one() -> None:
    """A value with NaN fails by itself; it must not make its neighbours fail."""
    found = pooled([INFINITE] * 4 + [one_token(0.5)] * 4)
    assert found[7].pooled == pytest.approx(0.5 * 0.5**0.5)
    infinite = pooled([one_token(math.inf)] + [one_token(0.5)] * 7)
    assert infinite[7].pooled == pytest.approx(((1 + 7 * 0.25) / 8) ** 0.5)


def test_single_tokens_are_not_pooled() -> None:
    """A single token has 61 numbers, so its own estimate is good."""
    single = Distance(0.5, 0.5, per_token=np.array([0.5]))
    distances_by_leaf = {(i, "out"): single for i in range(9)}
    assert pool(values_of(9, shape=(1, 1, 64)), distances_by_leaf) == {}


def test_only_values_with_the_same_number_of_tokens_are_pooled_together() -> None:
    shapes = [(1, TOKENS, 64), (1, 5, 64)]
    calls = [make_call(f"h.{i}", make_summary(shape=shapes[i % 2], seed=i)) for i in range(16)]
    drifts = [one_token(0.5), drift(0, 0.1, 0, 0, 0)]
    found = pool(timeline(calls), {(i, "out"): drifts[i % 2] for i in range(16)})
    assert [at for at, _ in found] == [14, 15]
    sizes = [found[at, "out"].pooled for at in (14, 15)]
    assert sizes == pytest.approx([0.5, 0.1])
    assert [found[at, "out"].pooled_token for at in (14, 15)] == [3, 1]


def test_values_are_pooled_in_order_of_time() -> None:
    """The input of a module is before its children in time, though its call ends after them."""
    x = [make_summary(seed=i) for i in range(9)]
    calls: list[Call] = [make_call(f"h.{i}", leaves=(Leaf("out", x[i]),)) for i in range(7)]
    calls.append(
        make_call("h", leaves=(Leaf("in.0", x[7]), Leaf("out", x[8])), inputs="{0=tensor}")
    )
    half = one_token(0.5)
    distances_by_leaf = dict.fromkeys([(i, "out") for i in range(7)], half)
    distances_by_leaf |= {(7, "in.0"): one_token(1.0), (7, "out"): half}
    found = pool(timeline(calls), distances_by_leaf)
    assert list(found) == [(6, "out"), (7, "out")]
    sizes = [value.pooled**2 for value in found.values()]
    assert sizes == pytest.approx([(1 + 7 * 0.25) / 8, 0.25])


def test_values_that_were_not_compared_are_skipped() -> None:
    distances_by_leaf = {(i, "out"): one_token(0.5) for i in range(12) if i not in (2, 5)}
    found = pool(values_of(12), distances_by_leaf)
    assert sorted(found) == [(9, "out"), (10, "out"), (11, "out")]
