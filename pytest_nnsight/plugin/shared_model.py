"""The model that tests share: what to load for a test, loading it, and capturing from it.

Every pytest session imports this module, so it imports other subpackages only when it needs them.
"""

from __future__ import annotations

import gc
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.plugin.keys import IN_PLACE_MODELS, SETTINGS, SHARED, SPECS, WATCHDOG
from pytest_nnsight.settings import Settings

if TYPE_CHECKING:
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.plugin.loaded_model import LoadedModel, LoadRequest


def load_requests(settings: Settings) -> list[LoadRequest]:
    """Return one request for each model that the settings name."""
    if not settings.model:
        return []
    from pytest_nnsight.models.spec import LoadOptions, parse_spec
    from pytest_nnsight.plugin.loaded_model import LoadRequest

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
    from pytest_nnsight.plugin.progress import shows_bars, uncaptured

    spec = load_request.spec
    with uncaptured(config) as say, loading_time(config, spec.public):
        _free_memory()  # of the model before this one: now that its fixture ended, nothing uses it
        with gc_paused():
            from pytest_nnsight.models.loading import load  # imports torch, which takes seconds

            model = load(spec, load_request.options, say, shows_bars(config))
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
    from pytest_nnsight.plugin.loaded_model import LoadedModel

    config = item.config
    shared = config.stash[SHARED].get(id(model))
    spec = config.stash[SPECS].get(id(model))
    is_remote = settings_of(item, config.stash[SETTINGS]).is_remote
    return LoadedModel(model, spec, shared.guard if shared else None, is_remote)


def make_capture(model: Any, item: pytest.Item | pytest.Session) -> Capture:
    """Return the `Capture` of a model, with the settings of the test or of the session."""
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.plugin.progress import progress_writer, remote_for

    config = item.config
    identify = find_loaded_model(model, item).identify
    calibrates = progress_writer(config) if config.stash[SETTINGS].calibrate else None
    watchdog = config.stash.get(WATCHDOG, None)
    reached = None if watchdog is None else watchdog.record_module
    remote = remote_for(settings_of(item, config.stash[SETTINGS]), config)
    changing = config.stash.setdefault(IN_PLACE_MODELS, WeakSet())
    return Capture(
        model, identify, calibrates=calibrates, reached=reached, remote=remote, changing=changing
    )


def _free_memory() -> None:
    """Collect models that nothing refers to, and return their memory to the accelerator."""
    if "torch" not in sys.modules:  # no model was loaded yet
        return
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
