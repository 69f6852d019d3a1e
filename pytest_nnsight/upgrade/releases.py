"""List the releases of a package, and find the date of one."""

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
from pytest_nnsight.upgrade.environment import pip_command

_FIRST_YEAR = 2021  # reproducible builds set an earlier, fixed date


def releases_between(package: str, first: str, last: str) -> list[str]:
    """Return the releases from ``first`` to ``last``, oldest first, without pre-releases.

    Raise `UsageError` if one of the two does not exist, or if ``first`` is not the older one.
    """
    command = [*pip_command(), "index", "versions", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(r"Available versions: (.*)", done.stdout)
    if match is None:
        raise UsageError(f"pip finds no package {package}; check the name and pip's index")
    releases = {text.strip(): Version(text.strip()) for text in match[1].split(",")}
    for end in (first, last):
        try:
            exists = Version(end) in releases.values()
        except InvalidVersion:
            exists = False
        if not exists:
            raise UsageError(f"there is no {package} {end}; nearest: {suggest(end, releases)}")
    if Version(first) >= Version(last):
        raise UsageError(f"{package} {first} is not before {last}; give the older one first")
    between = [text for text, v in releases.items() if Version(first) <= v <= Version(last)]
    return sorted(between, key=releases.__getitem__)


def release_date(package: str, release: str) -> str:
    """Return the day when a release was built, like ``2026-01-16``, or an empty string."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*pip_command(), "download", "--quiet", "--no-deps", "--dest", folder]
        done = subprocess.run([*command, f"{package}=={release}"], capture_output=True, check=False)
        files = [*Path(folder).iterdir()]
        if done.returncode or not files:
            return ""
        date = _newest_date(files[0])
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
