"""The model that tests share: what to load for a test, loading it, and capturing from it.

Every pytest session imports this module, so it imports other subpackages only when it needs them.
"""

from __future__ import annotations

import gc
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.plugin.keys import IN_PLACE_MODELS, SETTINGS, SHARED, SPECS, WATCHDOG
from pytest_nnsight.settings import Settings

if TYPE_CHECKING:
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.guard.guard import Guard
    from pytest_nnsight.models.spec import LoadOptions, ModelSpec
    from pytest_nnsight.run import Environment, ModelRecord


class LoadRequest(NamedTuple):
    """A model to load, and how. Tests with equal requests share the model."""

    spec: ModelSpec
    options: LoadOptions


class LoadedModel(NamedTuple):
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

    def identify(self) -> tuple[ModelRecord, Environment]:
        """Describe the model and the machine in their current state."""
        from pytest_nnsight.models.identity import identify

        model, environment = identify(self.model, self.spec)
        return model, replace(environment, device="ndif") if self.is_remote else environment


def load_requests(settings: Settings) -> list[LoadRequest]:
    """Return one request for each model that the settings name."""
    if not settings.model:
        return []
    from pytest_nnsight.models.spec import LoadOptions, parse_spec

    options = LoadOptions(
        settings.device_map,
        settings.dtype,
        settings.attn,
        settings.trust_remote_code,
        settings.is_remote,
    )
    return [LoadRequest(parse_spec(text), options) for text in settings.model]


def load_model(request: pytest.FixtureRequest) -> Any:
    """Load the model that the fixture ``nnsight_model`` is requested for, with a progress bar.

    Skip the test if no model is configured.
    """
    config = request.config
    load_request: LoadRequest | None = getattr(request, "param", None) or _only_request(config)
    if load_request is None:
        pytest.skip("needs a model: add --nnsight-model gpt2, or tiny:gpt2 which needs no download")
    from pytest_nnsight.capture.collector import gc_paused
    from pytest_nnsight.plugin.progress import progress_writer, shows_bars, uncaptured

    spec, has_bars, say = load_request.spec, shows_bars(config), progress_writer(config)
    with uncaptured(config) if has_bars else nullcontext(), loading_time(config, spec.public):
        _free_memory()  # of the model before this one: now that its fixture ended, nothing uses it
        with gc_paused():
            from pytest_nnsight.models.loading import load  # imports torch, which takes seconds

            model = load(spec, load_request.options, say, has_bars)
    config.stash[SPECS] = {id(model): spec}
    return model


def _only_request(config: pytest.Config) -> LoadRequest | None:
    """Return the request of a test that pytest could not parametrize.

    Doctests, methods of ``unittest.TestCase`` and ``request.getfixturevalue`` are such cases. Raise
    `UsageError` if several models are configured.
    """
    settings = config.stash[SETTINGS]
    if len(settings.model) > 1:
        raise UsageError(
            f"with {len(settings.model)} models a test must name its fixtures as arguments: a "
            "doctest, a unittest.TestCase and request.getfixturevalue work with one model"
        )
    return next(iter(load_requests(settings)), None)


def loading_time(config: pytest.Config, name: str) -> AbstractContextManager[None]:
    """Limit a block by ``--nnsight-load-timeout``, and not by the timeout of the test."""
    watchdog = config.stash.get(WATCHDOG, None)
    no_limit: AbstractContextManager[None] = nullcontext()
    return no_limit if watchdog is None else watchdog.loading(name)


def find_loaded_model(model: Any, item: pytest.Item | pytest.Session) -> LoadedModel:
    """Return a model with its spec and its guard, if it has them."""
    shared, spec = (item.config.stash[key].get(id(model)) for key in (SHARED, SPECS))
    guard = shared.guard if shared else None
    return LoadedModel(model, spec, guard, settings_of(item).is_remote)


def make_capture(model: Any, item: pytest.Item | pytest.Session) -> Capture:
    """Return the `Capture` of a model, with the settings of the test or of the session."""
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.plugin.progress import progress_writer, remote_for

    config = item.config
    watchdog = config.stash.get(WATCHDOG, None)
    return Capture(
        model,
        find_loaded_model(model, item).identify,
        calibrates=progress_writer(config) if config.stash[SETTINGS].calibrate else None,
        reached=None if watchdog is None else watchdog.record_module,
        remote=remote_for(settings_of(item), config),
        changing=config.stash.setdefault(IN_PLACE_MODELS, WeakSet()),
    )


def _free_memory() -> None:
    """Collect models that nothing refers to, and return their memory to the accelerator."""
    if "torch" not in sys.modules:  # no model was loaded yet
        return
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
