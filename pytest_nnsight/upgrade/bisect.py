"""The first release of a package under which the goldens come out otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_nnsight.errors import UsageError
from pytest_nnsight.report.outcomes import NOISE, VERDICTS
from pytest_nnsight.upgrade.upgrade_run import UpgradeRun


@dataclass(frozen=True, slots=True)
class Found:
    """The first release of the other kind, the last before it, and those between without a result.

    ``trial`` is of whichever of the two is not as the goldens are.
    """

    first: str
    before: str
    skipped: tuple[str, ...]
    trial: UpgradeRun
    is_worse: bool


def bisect(
    releases: Sequence[str], run: Callable[[str], UpgradeRun], say: Callable[[str], None]
) -> Found:
    """Find where the result changes between the first and the last of the releases.

    Releases that cannot be installed are left out. Raise `UsageError` where the two ends come to
    the same, or one of them cannot be installed.
    """
    low, high = 0, len(releases) - 1
    ends = [run(releases[at]) for at in (low, high)]
    for release, trial in zip((releases[low], releases[high]), ends, strict=True):
        if not trial.is_installed:
            raise UsageError(f"{release} {trial.failure}")
    is_good = [is_as_before(trial) for trial in ends]
    if is_good[0] == is_good[1]:
        both = "are as the goldens" if is_good[0] else f"differ from them ({ends[1].worst})"
        raise UsageError(f"{releases[low]} and {releases[high]} both {both}: no change to find")
    kept, skipped = dict(zip((low, high), ends, strict=True)), set[int]()
    while True:
        open_ones = [at for at in range(low + 1, high) if at not in skipped]
        if not open_ones:
            break
        say(f"{len(open_ones)} releases left, {len(open_ones).bit_length()} steps\n")
        middle = min(open_ones, key=lambda at: abs(2 * at - low - high))
        trial = kept[middle] = run(releases[middle])
        if not trial.is_installed:
            skipped.add(middle)
        elif is_as_before(trial) == is_good[0]:
            low = middle
        else:
            high = middle
    between = tuple(releases[at] for at in sorted(skipped) if low < at < high)
    changed = high if is_good[0] else low
    return Found(releases[high], releases[low], between, kept[changed], is_good[0])


def is_as_before(trial: UpgradeRun) -> bool:
    """Tell whether a combination gives what the goldens hold, within noise."""
    return trial.is_installed and (
        trial.worst in VERDICTS and VERDICTS.index(trial.worst) <= VERDICTS.index(NOISE)
    )
