"""Read requirements: those to combine, and those that a project pins."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Collection, Iterator, Sequence
from itertools import product
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pytest_nnsight.errors import UsageError

Combination = tuple[str, ...]
"""Requirements, one for each package: ``("nnsight==0.7.0", "transformers==5.2.0")``."""

_LOCK_FILES = ("uv.lock", "poetry.lock", "pylock.toml")
_PIN_FILES = ("constraints.txt", *_LOCK_FILES)


def combinations(requirements: Sequence[str]) -> list[Combination]:
    """Return all combinations of requirements for different packages, in the given order.

    Raise `UsageError` for text that is not a requirement, such as a version alone.
    """
    by_package: dict[str, dict[str, None]] = {}
    for requirement in requirements:
        by_package.setdefault(package_of(requirement), {})[requirement] = None
    return list(product(*by_package.values()))


def package_of(requirement: str) -> str:
    """Return the canonical package name of a requirement; raise `UsageError` if it has none."""
    error = UsageError(f"{requirement!r} is not a requirement; write it as transformers==5.23.0")
    try:
        name = Requirement(requirement).name
    except InvalidRequirement:
        raise error from None
    with contextlib.suppress(InvalidVersion):
        Version(name)  # packaging reads a version alone as a name
        raise error
    return canonicalize_name(name)


def is_open(requirement: str) -> bool:
    """Tell whether a requirement allows several versions, so that pip may install a newer one."""
    return "==" not in requirement


def find_pins(folder: Path) -> Path | None:
    """Return the constraints or lock file in a folder, ``None`` if there is none."""
    return next((folder / name for name in _PIN_FILES if (folder / name).is_file()), None)


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
