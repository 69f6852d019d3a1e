"""The user's own constraints and lock files -> what an environment must keep to."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from pytest_nnsight.errors import UsageError

_LOCKS = ("uv.lock", "poetry.lock", "pylock.toml")
_CONSTRAINTS = "constraints.txt"


def find_pins(folder: Path) -> Path | None:
    """Return the file of a project that pins versions, where it has one."""
    files = (folder / name for name in (_CONSTRAINTS, *_LOCKS))
    return next((path for path in files if path.is_file()), None)


def read_pins(path: Path, apart_from: Collection[str]) -> list[str]:
    """Return the pins of a file, without those of packages that are to vary.

    Raise `UsageError` where the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        pins = [*(_locked(text) if path.name in _LOCKS else _constraints(text))]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"cannot read the pins of {path.name}: {error}") from error
    return [str(pin) for pin in pins if canonicalize_name(pin.name) not in apart_from]


def _constraints(text: str) -> Iterator[Requirement]:
    for line in text.splitlines():
        plain = line.partition(" #")[0].strip()
        if not plain or plain.startswith(("#", "-")):
            continue
        try:
            yield Requirement(plain)
        except InvalidRequirement as error:
            raise ValueError(f"{plain!r} is no requirement") from error


def _locked(text: str) -> Iterator[Requirement]:
    document = tomllib.loads(text)
    for package in document.get("package") or document.get("packages") or ():
        if "version" in package and "editable" not in package.get("source", {}):
            yield Requirement(f"{package['name']}=={package['version']}")
