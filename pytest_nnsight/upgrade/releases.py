"""The releases of a package: which there are, and when one was made."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

from packaging.version import InvalidVersion, Version

from pytest_nnsight.errors import UsageError, suggest
from pytest_nnsight.upgrade.environment import installer

_REPRODUCIBLE = 2021  # builds whose result is to be the same bytes carry a date before this


def releases_between(package: str, first: str, last: str) -> list[str]:
    """Return the releases from ``first`` to ``last``, oldest first, without early versions.

    Raise `UsageError` where one of the two is not there, or they are the wrong way round.
    """
    command = [*installer(), "index", "versions", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(r"Available versions: (.*)", done.stdout)
    if match is None:
        raise UsageError(f"the index knows no {package}; is the name right, and is it reachable?")
    there = [text.strip() for text in match[1].split(",")]
    for wanted in (first, last):
        try:
            known = Version(wanted) in map(Version, there)
        except InvalidVersion:
            known = False
        if not known:
            raise UsageError(f"there is no {package} {wanted}; nearest: {suggest(wanted, there)}")
    if Version(first) >= Version(last):
        raise UsageError(f"{package} {first} is not before {last}; give the older one first")
    between = {text: Version(text) for text in there}
    kept = {t: v for t, v in between.items() if Version(first) <= v <= Version(last)}
    return sorted(kept, key=kept.__getitem__)


def release_date(package: str, release: str) -> str:
    """Return the day on which a release was built, like ``2026-01-16``; empty if not known."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*installer(), "download", "--quiet", "--no-deps", "--dest", folder]
        done = subprocess.run([*command, f"{package}=={release}"], capture_output=True, check=False)
        files = [*Path(folder).iterdir()]
        if done.returncode or not files:
            return ""
        when = _newest(files[0])
    return "" if when[0] < _REPRODUCIBLE else "{:04}-{:02}-{:02}".format(*when)


def _newest(archive: Path) -> tuple[int, ...]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            return max(entry.date_time for entry in file.infolist())
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as file:
            return time.gmtime(max(entry.mtime for entry in file.getmembers()))[:3]
    return (0,)
