"""Combine requirements: each version of a package with each version of the others."""

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
    """Return all combinations of requirements for different packages, in the given order.

    Raise `UsageError` for text that is not a requirement, such as a version alone.
    """
    by_package: dict[str, list[str]] = {}
    for requirement in requirements:
        name = package_of(requirement)
        if requirement not in by_package.setdefault(name, []):
            by_package[name].append(requirement)
    return list(product(*by_package.values())) if by_package else []


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


def label(combination: Combination) -> str:
    """Return a combination as text: ``nnsight==0.7.0, transformers==5.2.0``."""
    return ", ".join(combination)
