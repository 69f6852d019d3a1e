"""What a fault is and what a benign change is: small named functions, and what is true of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from benchmarks.faults.ask import Ask
from benchmarks.faults.captured import Captured
from benchmarks.faults.roles import FAMILIES, Roles
from benchmarks.faults.variant import Variant

Change = Callable[[Variant], None]
Golden = Callable[[Variant], Ask]

NO_PLACES = ("prompt", "generated")
"""Where a fault starts that is in no module: what is asked, and the choice of tokens."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A change of what a model computes that a test should notice.

    ``starts`` holds places (see `roles`), or what is no module (`NO_PLACES`): the module whose
    inputs are right and whose output is wrong. A second one is as good an answer, and so is a
    second one of ``causes``. ``golden`` makes another ask of a standard one, for both sides.
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
        places = [place for place in self.starts if place not in NO_PLACES]
        return (
            roles.family in self.families
            and all(roles.has(place) for place in places)
            and self.needs(module)
        )

    def paths(self, roles: Roles) -> tuple[str, ...]:
        """Return what a diagnosis may name: paths, or what is no module."""
        return tuple(place if place in NO_PLACES else roles.path(place) for place in self.starts)


def fault(
    *,
    starts: str | tuple[str, ...],
    causes: str | tuple[str, ...],
    families: tuple[str, ...] = FAMILIES,
    kinds: tuple[str, ...] = ("trace", "generate"),
    needs: Callable[[Any], bool] = lambda module: True,
    golden: Golden | None = None,
) -> Callable[[Change], Fault]:
    """Make a fault of a function that changes a variant; its name is the function's."""

    def make(change: Change) -> Fault:
        places = (starts,) if isinstance(starts, str) else starts
        why = (causes,) if isinstance(causes, str) else causes
        name, about = change.__name__.replace("_", " "), inspect.getdoc(change) or ""
        return Fault(name, about, change, places, frozenset(why), families, kinds, needs, golden)

    return make


def faults_in(*modules: ModuleType) -> list[Fault]:
    """Return the faults that modules define, in their order."""
    return [value for m in modules for value in vars(m).values() if isinstance(value, Fault)]


Values = Mapping[str, Mapping[str, torch.Tensor]]
Align = Callable[[Captured, Captured], tuple[Values, Values]]


@dataclass(frozen=True, slots=True)
class Benign:
    """A change that no test should notice.

    ``align`` cuts the two runs to the tensors that should be equal, where the shapes are not, as
    those of a batch and of one prompt.
    """

    name: str
    about: str
    change: Change
    families: tuple[str, ...]
    kinds: tuple[str, ...]
    align: Align | None

    def fits(self, roles: Roles) -> bool:
        """Tell whether it can happen to a model."""
        return roles.family in self.families


def benign(
    *,
    families: tuple[str, ...] = FAMILIES,
    kinds: tuple[str, ...] = ("trace", "generate"),
    align: Align | None = None,
) -> Callable[[Change], Benign]:
    """Make a benign change of a function that changes a variant; its name is the function's."""

    def make(change: Change) -> Benign:
        name, about = change.__name__.replace("_", " "), inspect.getdoc(change) or ""
        return Benign(name, about, change, families, kinds, align)

    return make


def benign_in(*modules: ModuleType) -> list[Benign]:
    """Return the benign changes that modules define, in their order."""
    return [value for m in modules for value in vars(m).values() if isinstance(value, Benign)]
