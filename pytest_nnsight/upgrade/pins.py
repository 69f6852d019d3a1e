"""Read the versions that a project pins, from its constraints or its lock file."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from pytest_nnsight.errors import UsageError

_LOCK_FILES = ("uv.lock", "poetry.lock", "pylock.toml")
_CONSTRAINTS = "constraints.txt"


def find_pins(folder: Path) -> Path | None:
    """Return the constraints or lock file in a folder, ``None`` if there is none."""
    files = (folder / name for name in (_CONSTRAINTS, *_LOCK_FILES))
    return next((path for path in files if path.is_file()), None)


def read_pins(path: Path, excluded: Collection[str]) -> list[str]:
    """Return the pins of a file as requirements, but for the ``excluded`` packages.

    The names in ``excluded`` are canonical. Raise `UsageError` if the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        pins = [*(_locked(text) if path.name in _LOCK_FILES else _constraints(text))]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"cannot read the pins of {path.name}: {error}") from error
    return [str(pin) for pin in pins if canonicalize_name(pin.name) not in excluded]


def _constraints(text: str) -> Iterator[Requirement]:
    """Yield the requirements of a constraints file, without its comments and options."""
    for line in text.splitlines():
        requirement = line.partition(" #")[0].strip()
        if not requirement or requirement.startswith(("#", "-")):
            continue
        try:
            yield Requirement(requirement)
        except InvalidRequirement as error:
            raise ValueError(f"{requirement!r} is not a requirement") from error


def _locked(text: str) -> Iterator[Requirement]:
    """Yield the versions of a lock file, without those of editable packages."""
    document = tomllib.loads(text)
    for package in document.get("package") or document.get("packages") or ():
        if "version" in package and "editable" not in package.get("source", {}):
            yield Requirement(f"{package['name']}=={package['version']}")
