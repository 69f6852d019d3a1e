"""The model of a test: how to load it, where it came from, what its weights are now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.errors import LeakError

if TYPE_CHECKING:
    from pytest_nnsight.guard.guard import Guard
    from pytest_nnsight.models.spec import LoadOptions, ModelSpec
    from pytest_nnsight.run import Environment, ModelRecord


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """A model to load, and how. Tests with equal requests share the model."""

    spec: ModelSpec
    options: LoadOptions


@dataclass(frozen=True, slots=True)
class SharedModel:
    """The guard of a model that several tests use, and the fixture that made the model."""

    guard: Guard
    fixture: pytest.FixtureDef[Any]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The model of one test. ``spec`` is ``None`` if the project's own fixture made the model."""

    model: Any
    spec: ModelSpec | None
    guard: Guard | None
    is_remote: bool = False
    """Whether the model runs on a server: then its weights are not known here."""

    @property
    def name(self) -> str:
        """The name of the model's golden folder."""
        return self.spec.name if self.spec else self.identify()[0].model_class

    @property
    def change(self) -> str:
        """How the weights, as last read, differ from the expected ones; empty if they do not."""
        return self.guard.change if self.guard else ""

    def identify(self) -> tuple[ModelRecord, Environment]:
        """Describe the model and the machine in their current state."""
        from pytest_nnsight.models.identity import identify

        model, environment = identify(self.model, self.spec)
        return model, replace(environment, device="ndif") if self.is_remote else environment

    def fingerprint(self) -> tuple[str | None, dict[str, str]]:
        """Read all weights; return one fingerprint of them all, and one for each parameter."""
        if self.is_remote:
            return None, {}
        from pytest_nnsight import nnsight_api
        from pytest_nnsight.summary.fingerprint import fingerprint_parameters, weights_fingerprint

        if self.guard is None:
            parameters = fingerprint_parameters(nnsight_api.torch_module(self.model))
        else:
            parameters = self.guard.read()
        return weights_fingerprint(parameters), parameters

    def check_unchanged(self, test: str) -> bool:
        """Return whether the weights, as last read by `fingerprint`, are those that were loaded.

        Raise `LeakError` if this test changed them. Weights that a fixture changed for its tests
        are allowed, but then the result is false.
        """
        if self.guard is None:
            return True
        if self.guard.change and self.guard.is_checking(test):
            raise LeakError(
                f"golden not written: {self.guard.change}; "
                "change them in a fixture that restores them"
            )
        return self.guard.is_as_loaded()
