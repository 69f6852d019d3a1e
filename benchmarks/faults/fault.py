"""Define faults and benign changes: small named functions with their true start and cause."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from benchmarks.faults.captured import Captured
from benchmarks.faults.probe import Probe
from benchmarks.faults.roles import FAMILIES, Roles
from benchmarks.faults.variant import Variant

Change = Callable[[Variant], None]
Golden = Callable[[Variant], Probe]

OUTSIDE_MODULES = ("prompt", "generated")
"""Starts of faults outside any module: the prompt, and the choice of tokens."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Define a change of a model's computation that a test should find.

    ``starts`` holds locations (see `roles`) or `OUTSIDE_MODULES`: the module whose inputs are right
    and whose output is wrong. Any of several ``starts`` or ``causes`` is a correct answer.
    ``golden`` makes another probe of a standard one, for both runs.
    """

    name: str
    about: str
    change: Change
    starts: tuple[str, ...]
    causes: frozenset[str]
    families: tuple[str, ...]
    kinds: tuple[str, ...]
    needs: Callable[[Any], bool]
    golden: Golden | None

    def fits(self, module: Any, roles: Roles) -> bool:
        """Tell whether a model can have this fault."""
        locations = [location for location in self.starts if location not in OUTSIDE_MODULES]
        return (
            roles.family in self.families
            and all(roles.has(location) for location in locations)
            and self.needs(module)
        )

    def paths(self, roles: Roles) -> tuple[str, ...]:
        """Return what a diagnosis may name: module paths, or `OUTSIDE_MODULES`."""
        return tuple(
            location if location in OUTSIDE_MODULES else roles.path(location)
            for location in self.starts
        )


def fault(
    *,
    starts: str | tuple[str, ...],
    causes: str | tuple[str, ...],
    families: tuple[str, ...] = FAMILIES,
    kinds: tuple[str, ...] = ("trace", "generate"),
    needs: Callable[[Any], bool] = lambda module: True,
    golden: Golden | None = None,
) -> Callable[[Change], Fault]:
    """Turn a function that changes a variant into a fault of the same name."""

    def make(change: Change) -> Fault:
        locations = (starts,) if isinstance(starts, str) else starts
        why = (causes,) if isinstance(causes, str) else causes
        name, about = change.__name__.replace("_", " "), inspect.getdoc(change) or ""
        return Fault(name, about, change, locations, frozenset(why), families, kinds, needs, golden)

    return make


def faults_in(*modules: ModuleType) -> list[Fault]:
    """Return the faults that modules define, in order."""
    return [value for m in modules for value in vars(m).values() if isinstance(value, Fault)]


Values = Mapping[str, Mapping[str, torch.Tensor]]
Align = Callable[[Captured, Captured], tuple[Values, Values]]


@dataclass(frozen=True, slots=True)
class Benign:
    """Define a change that no test should find.

    ``align`` cuts two runs with different shapes, such as a batch and one prompt, to the tensors
    that should be equal. ``golden`` makes another probe of a standard one, for both runs.
    """

    name: str
    about: str
    change: Change
    families: tuple[str, ...]
    kinds: tuple[str, ...]
    align: Align | None
    golden: Golden | None

    def fits(self, roles: Roles) -> bool:
        """Tell whether a model can have this change."""
        return roles.family in self.families


def benign(
    *,
    families: tuple[str, ...] = FAMILIES,
    kinds: tuple[str, ...] = ("trace", "generate"),
    align: Align | None = None,
    golden: Golden | None = None,
) -> Callable[[Change], Benign]:
    """Turn a function that changes a variant into a benign change of the same name."""

    def make(change: Change) -> Benign:
        name, about = change.__name__.replace("_", " "), inspect.getdoc(change) or ""
        return Benign(name, about, change, families, kinds, align, golden)

    return make


def benign_in(*modules: ModuleType) -> list[Benign]:
    """Return the benign changes that modules define, in order."""
    return [value for m in modules for value in vars(m).values() if isinstance(value, Benign)]
