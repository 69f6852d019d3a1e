"""The first release of the other kind is found, in as few steps as there may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nnsight.errors import UsageError
from pytest_nnsight.report.outcomes import CRASHED, DRIFT, NOISE, SAME
from pytest_nnsight.upgrade.bisect import Found, bisect
from pytest_nnsight.upgrade.upgrade_run import Result, UpgradeRun


def upgrade_run_of(verdict: str) -> UpgradeRun:
    if verdict == "gone":
        return UpgradeRun(("x",), failure="cannot be installed: no")
    return UpgradeRun(("x",), (Result("test", verdict),), report={})


def found(verdicts: list[str]) -> tuple[Found, list[str]]:
    names, asked = [str(number) for number in range(len(verdicts))], []

    def run(release: str) -> UpgradeRun:
        asked.append(release)
        return upgrade_run_of(verdicts[int(release)])

    return bisect(names, run, lambda text: None), asked


@given(st.integers(2, 200), st.data())
def test_any_place_is_found_in_few_steps(count: int, data: st.DataObject) -> None:
    change = data.draw(st.integers(1, count - 1))
    result, asked = found([SAME] * change + [DRIFT] * (count - change))
    assert (result.before, result.first) == (str(change - 1), str(change))
    assert result.is_worse
    assert result.trial.worst == DRIFT
    assert len(asked) <= 3 + count.bit_length()
    assert len(asked) == len({*asked})


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.data())
def test_what_cannot_be_installed_is_left_out(gone: list[bool], data: st.DataObject) -> None:
    change = data.draw(st.integers(1, len(gone) - 1))
    verdicts = [SAME if at < change else CRASHED for at in range(len(gone))]
    inner = range(1, len(gone) - 1)
    verdicts = ["gone" if at in inner and gone[at] else v for at, v in enumerate(verdicts)]
    result, _ = found(verdicts)
    kept = [at for at, verdict in enumerate(verdicts) if verdict != "gone"]
    first = next(at for at in kept if at >= change)
    before = max(at for at in kept if at < change)
    assert (result.before, result.first) == (str(before), str(first))
    assert result.skipped == tuple(map(str, range(before + 1, first)))


def test_goldens_of_the_later_release_are_found_from_the_other_side() -> None:
    result, _ = found([DRIFT, DRIFT, NOISE, SAME])
    assert (result.before, result.first, result.is_worse) == ("1", "2", False)
    assert result.trial.worst == DRIFT


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        ([SAME, DRIFT, SAME], r"^0 and 2 both are as the goldens: no change to find$"),
        ([DRIFT, SAME, CRASHED], r"^0 and 2 both differ from them \(crashed\): no change to find$"),
        (["gone", SAME, DRIFT], r"^0 cannot be installed: no$"),
    ],
)
def test_ends_without_a_change_are_refused(verdicts: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        found(verdicts)
