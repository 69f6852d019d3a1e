"""What is known of a model that a test uses: how it is loaded, where it came from, its guard."""

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
    """One model to load and how; tests with equal requests share the model."""

    spec: ModelSpec
    options: LoadOptions


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The model of one test with where it came from; ``spec`` is ``None`` for a user's own."""

    model: Any
    spec: ModelSpec | None
    guard: Guard | None
    is_remote: bool = False
    """The model runs elsewhere; what its weights are is not known here."""

    def identify(self) -> tuple[ModelRecord, Environment]:
        """Describe the model and the machine as they are now."""
        from pytest_nnsight.models.identity import identify

        model, environment = identify(self.model, self.spec)
        return model, replace(environment, device="ndif") if self.is_remote else environment

    def fingerprint(self) -> tuple[str | None, dict[str, str]]:
        """Read all weights as they are now; return one fingerprint and those per parameter."""
        if self.is_remote:
            return None, {}
        from pytest_nnsight import nnsight_api
        from pytest_nnsight.summary.fingerprint import fingerprint_parameters, weights_fingerprint

        if self.guard is None:
            parameters = fingerprint_parameters(nnsight_api.torch_module(self.model))
        else:
            parameters = self.guard.read()
        return weights_fingerprint(parameters), parameters

    @property
    def change(self) -> str:
        """How the weights differ from what they should be, as last read; empty if they do not."""
        return self.guard.change if self.guard else ""

    def check_unchanged(self, test: str) -> bool:
        """Raise `LeakError` where a test changed the weights; tell whether they are as loaded.

        Checked is what was read last, see `fingerprint`.
        """
        if self.guard is None:
            return True
        if self.guard.change and self.guard.is_checking(test):
            raise LeakError(
                f"golden not written: {self.guard.change}; "
                "change them in a fixture that restores them"
            )
        return self.guard.is_as_loaded()

    @property
    def name(self) -> str:
        """The name of the golden folder."""
        return self.spec.name if self.spec else self.identify()[0].model_class


@dataclass(frozen=True, slots=True)
class SharedModel:
    """A model that several tests use, with the guard over it and the fixture that loads it."""

    guard: Guard
    fixture: pytest.FixtureDef[Any]
