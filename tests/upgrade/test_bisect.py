"""Bisecting finds the first release with another result in few steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nnsight.errors import UsageError
from pytest_nnsight.report.outcomes import CRASHED, DRIFT, NOISE, SAME
from pytest_nnsight.upgrade.bisect import BisectResult, bisect
from pytest_nnsight.upgrade.upgrade_run import Result, UpgradeRun


def make_upgrade_run(verdict: str) -> UpgradeRun:
    if verdict == "not installed":
        return UpgradeRun(("x",), failure="cannot be installed: no")
    return UpgradeRun(("x",), (Result("test", verdict),), report={})


def bisect_verdicts(verdicts: list[str]) -> tuple[BisectResult, list[str]]:
    names, tested = [str(number) for number in range(len(verdicts))], []

    def run(release: str) -> UpgradeRun:
        tested.append(release)
        return make_upgrade_run(verdicts[int(release)])

    return bisect(names, run, lambda text: None), tested


@given(st.integers(2, 200), st.data())
def test_change_at_any_release_is_found_in_few_steps(count: int, data: st.DataObject) -> None:
    change = data.draw(st.integers(1, count - 1))
    result, tested = bisect_verdicts([SAME] * change + [DRIFT] * (count - change))
    assert (result.before, result.first) == (str(change - 1), str(change))
    assert result.is_worse
    assert result.upgrade_run.worst == DRIFT
    assert len(tested) <= 3 + count.bit_length()
    assert len(tested) == len({*tested})


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.data())
def test_releases_that_cannot_be_installed_are_skipped(
    is_missing: list[bool], data: st.DataObject
) -> None:
    change = data.draw(st.integers(1, len(is_missing) - 1))
    verdicts = [SAME if at < change else CRASHED for at in range(len(is_missing))]
    inner = range(1, len(is_missing) - 1)
    verdicts = [
        "not installed" if at in inner and is_missing[at] else v for at, v in enumerate(verdicts)
    ]
    result, _ = bisect_verdicts(verdicts)
    installed = [at for at, verdict in enumerate(verdicts) if verdict != "not installed"]
    first = next(at for at in installed if at >= change)
    before = max(at for at in installed if at < change)
    assert (result.before, result.first) == (str(before), str(first))
    assert result.skipped == tuple(map(str, range(before + 1, first)))


def test_goldens_of_a_later_release_find_the_first_that_matches() -> None:
    result, _ = bisect_verdicts([DRIFT, DRIFT, NOISE, SAME])
    assert (result.before, result.first, result.is_worse) == ("1", "2", False)
    assert result.upgrade_run.worst == DRIFT


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        ([SAME, DRIFT, SAME], r"^0 and 2 both match the goldens: there is no change to find$"),
        (
            [DRIFT, SAME, CRASHED],
            r"^0 and 2 both drift from the goldens \(crashed\): there is no change to find$",
        ),
        (["not installed", SAME, DRIFT], r"^0 cannot be installed: no$"),
    ],
)
def test_first_and_last_release_with_the_same_result_are_refused(
    verdicts: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        bisect_verdicts(verdicts)
