"""What is to be tried: versions of packages, each with each."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import product

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from pytest_nnsight.errors import UsageError

Combination = tuple[str, ...]
"""Requirements, one for each package: ``("nnsight==0.7.0", "transformers==5.2.0")``."""


def combinations(requirements: Sequence[str]) -> list[Combination]:
    """Return every combination of the requirements for different packages, in their order.

    Raise `UsageError` for what is no requirement, such as a version alone.
    """
    by_package: dict[str, list[str]] = {}
    for wish in requirements:
        name = package_of(wish)
        if wish not in by_package.setdefault(name, []):
            by_package[name].append(wish)
    return list(product(*by_package.values())) if by_package else []


def package_of(wish: str) -> str:
    """Return the package that a requirement is for. Raise `UsageError` where it is none."""
    wrong = UsageError(f"{wish!r} is no requirement; write it as transformers==5.23.0")
    try:
        name = Requirement(wish).name
    except InvalidRequirement:
        raise wrong from None
    with contextlib.suppress(InvalidVersion):
        Version(name)  # a version alone is read as a name
        raise wrong
    return canonicalize_name(name)


def is_open(wish: str) -> bool:
    """Tell whether a requirement leaves the version open, so that another day gives another."""
    return "==" not in wish


def label(combination: Combination) -> str:
    """Name a combination."""
    return ", ".join(combination)
