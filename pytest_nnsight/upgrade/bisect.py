"""Find the first release of a package that changes the result of the goldens, and its date."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from pytest_nnsight.errors import UsageError, suggest
from pytest_nnsight.report.outcomes import is_bad
from pytest_nnsight.upgrade.environment import Progress, pip_command
from pytest_nnsight.upgrade.upgrade_run import UpgradeRun

_FIRST_YEAR = 2021  # reproducible builds set an earlier, fixed date


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
    runs = {index: run(releases[index]) for index in (low, high)}
    for index, end in runs.items():
        if not end.is_installed:
            raise UsageError(f"{releases[index]} {end.failure}")
    is_worse, worst = is_bad(runs[high].worst), runs[high].worst
    if is_bad(runs[low].worst) == is_worse:
        result = f"drift from the goldens ({worst})" if is_worse else "match the goldens"
        both = f"{releases[low]} and {releases[high]} both {result}"
        raise UsageError(f"{both}: there is no change to find")
    skipped = set[int]()
    while untested := [index for index in range(low + 1, high) if index not in skipped]:
        progress(f"{len(untested)} releases left, {len(untested).bit_length()} steps\n")
        middle = min(untested, key=lambda index: abs(2 * index - low - high))
        runs[middle] = run(releases[middle])
        if not runs[middle].is_installed:
            skipped.add(middle)
        elif is_bad(runs[middle].worst) == is_worse:
            high = middle
        else:
            low = middle
    between = tuple(releases[index] for index in sorted(skipped) if low < index < high)
    bad = runs[high if is_worse else low]
    return BisectResult(releases[high], releases[low], between, bad, is_worse)


def releases_between(package: str, first: str, last: str) -> list[str]:
    """Return the releases from ``first`` to ``last``, oldest first, without pre-releases.

    Raise `UsageError` if one of the two does not exist, or if ``first`` is not the older one.
    """
    command = [*pip_command(), "index", "versions", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(r"Available versions: (.*)", done.stdout)
    if match is None:
        raise UsageError(f"pip finds no package {package}; check the name and pip's index")
    releases = {text.strip(): Version(text) for text in match[1].split(",")}
    for end in (first, last):
        with suppress(InvalidVersion):
            if Version(end) in releases.values():
                continue
        raise UsageError(f"there is no {package} {end}; nearest: {suggest(end, releases)}")
    if Version(first) >= Version(last):
        raise UsageError(f"{package} {first} is not before {last}; give the older one first")
    between = [text for text, v in releases.items() if Version(first) <= v <= Version(last)]
    return sorted(between, key=releases.__getitem__)


def release_date(package: str, release: str) -> str:
    """Return the day when a release was built, like ``2026-01-16``, or an empty string."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*pip_command(), "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*command, f"{package}=={release}"], capture_output=True, check=False)
        archive = next(Path(folder).iterdir(), None)
        date = _newest_date(archive) if archive is not None else (0,)
    return "" if date[0] < _FIRST_YEAR else "{:04}-{:02}-{:02}".format(*date)


def _newest_date(archive: Path) -> tuple[int, ...]:
    """Return year, month and day of the newest file in a wheel or source archive."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            return max(entry.date_time for entry in file.infolist())
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as file:
            return time.gmtime(max(entry.mtime for entry in file.getmembers()))[:3]
    return (0,)
