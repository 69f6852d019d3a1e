"""Find the first release of a package that changes the result of the goldens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_nnsight.errors import UsageError
from pytest_nnsight.report.outcomes import NOISE, VERDICTS
from pytest_nnsight.upgrade.environment import Progress
from pytest_nnsight.upgrade.upgrade_run import UpgradeRun


@dataclass(frozen=True, slots=True)
class BisectResult:
    """Name the first release with another result, and the last one before it.

    ``skipped`` are the releases between them that cannot be installed. ``upgrade_run`` is that of
    the one which does not match the goldens: the first if ``is_worse``.
    """

    first: str
    before: str
    skipped: tuple[str, ...]
    upgrade_run: UpgradeRun
    is_worse: bool


def bisect(
    releases: Sequence[str], run: Callable[[str], UpgradeRun], progress: Progress
) -> BisectResult:
    """Find where the result changes between the first and the last release.

    ``run`` checks one release. Releases that cannot be installed are skipped. Raise `UsageError` if
    the first and the last release give the same result, or if one of them cannot be installed.
    """
    low, high = 0, len(releases) - 1
    ends = [run(releases[low]), run(releases[high])]
    for release, end in zip((releases[low], releases[high]), ends, strict=True):
        if not end.is_installed:
            raise UsageError(f"{release} {end.failure}")
    first_matches, last_matches = map(matches_goldens, ends)
    if first_matches == last_matches:
        result = "match" if first_matches else "drift from"
        worst = "" if first_matches else f" ({ends[1].worst})"
        both = f"{releases[low]} and {releases[high]} both {result} the goldens{worst}"
        raise UsageError(f"{both}: there is no change to find")
    runs, skipped = {low: ends[0], high: ends[1]}, set[int]()
    while untested := [index for index in range(low + 1, high) if index not in skipped]:
        progress(f"{len(untested)} releases left, {len(untested).bit_length()} steps\n")
        middle = min(untested, key=lambda index: abs(2 * index - low - high))
        runs[middle] = run(releases[middle])
        if not runs[middle].is_installed:
            skipped.add(middle)
        elif matches_goldens(runs[middle]) == first_matches:
            low = middle
        else:
            high = middle
    between = tuple(releases[index] for index in sorted(skipped) if low < index < high)
    changed = runs[high if first_matches else low]
    return BisectResult(releases[high], releases[low], between, changed, first_matches)


def matches_goldens(upgrade_run: UpgradeRun) -> bool:
    """Tell whether all tests of an upgrade run match the goldens, within noise."""
    worst = upgrade_run.worst
    return worst in VERDICTS and VERDICTS.index(worst) <= VERDICTS.index(NOISE)
