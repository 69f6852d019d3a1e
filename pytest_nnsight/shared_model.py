"""The model that tests share: loaded once, guarded from test to test, loaded again where needed.

`plugin` imports it with itself, in every pytest run: it imports nothing that an unused plugin can
do without.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pytest

from pytest_nnsight.errors import LeakError, UsageError
from pytest_nnsight.session import (
    CHANGING,
    FIXTURE,
    PASSED,
    SETTINGS,
    SHARED,
    SPECS,
    WATCH,
    settings_of,
)
from pytest_nnsight.settings import Settings

if TYPE_CHECKING:
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.loaded import LoadedModel, LoadRequest


def load_requests(metafunc: pytest.Metafunc, settings: Settings) -> list[LoadRequest]:
    """Return what to load for one test function, a request for each model."""
    return _requests(settings_of(metafunc.definition, settings))


def _requests(own: Settings) -> list[LoadRequest]:
    if not own.model:
        return []
    from pytest_nnsight.loaded import LoadRequest
    from pytest_nnsight.models.spec import LoadOptions, parse_spec

    how = (own.device_map, own.dtype, own.attn, own.trust_remote_code, own.is_away)
    return [LoadRequest(parse_spec(text), LoadOptions(*how)) for text in own.model]


def _only_request(config: pytest.Config) -> LoadRequest | None:
    """Return what to load where pytest could not say for which model a test runs.

    Doctests, methods of ``unittest.TestCase`` and what asks for a fixture while it runs.
    """
    settings = config.stash[SETTINGS]
    if len(settings.model) > 1:
        raise UsageError(
            f"with {len(settings.model)} models a test must name its fixtures as arguments: a "
            "doctest, a unittest.TestCase and request.getfixturevalue work with one model"
        )
    return next(iter(_requests(settings)), None)


@contextmanager
def loaded(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Load the model of a request, once the memory of one before it is free."""
    wanted: LoadRequest | None = getattr(request, "param", None) or _only_request(request.config)
    if wanted is None:
        pytest.skip("needs a model: add --nnsight-model gpt2, or tiny:gpt2 which needs no download")
    from pytest_nnsight.capture.collector import gc_paused
    from pytest_nnsight.progress import shows_bars, uncaptured

    with uncaptured(request.config) as say, _load_time(request.config, wanted.spec.public):
        _release()  # of a model before this one: pytest lets go of it only after its fixture's end
        with gc_paused():
            from pytest_nnsight.models.loading import load  # imports torch, which takes seconds

            model = load(wanted.spec, wanted.options, say, shows_bars(request.config))
    request.config.stash[SPECS] = {id(model): wanted.spec}
    yield model


def _load_time(config: pytest.Config, name: str) -> AbstractContextManager[None]:
    """Let what is done count as loading a model, which has its own limit."""
    watching = config.stash.get(WATCH, None)
    limit: AbstractContextManager[None] = nullcontext()
    return limit if watching is None else watching.loading(name)


def share(model: Any, fixture: pytest.FixtureDef[Any], config: pytest.Config) -> None:
    """Guard a model that its fixture has just made, until it is taken down; not a test's own."""
    if fixture.scope == "function" or config.stash[SETTINGS].leaks == "off":
        return
    with _load_time(config, "its weights"):
        from pytest_nnsight.guard.guard import Guard
        from pytest_nnsight.loaded import SharedModel

        config.stash[SHARED][id(model)] = SharedModel(Guard(model), fixture)
    fixture.addfinalizer(partial(_end, config, id(model)))


def _end(config: pytest.Config, key: int) -> None:
    """Check all weights of a model that is about to be taken down."""
    shared = config.stash[SHARED].pop(key, None)
    left = shared.guard.end() if shared else ""
    if left:
        text = f"the model is not what was loaded: {left}"
        if config.stash[SETTINGS].leaks == "fail":
            raise LeakError(text)
        warnings.warn(text, stacklevel=1)


def named_model(request: pytest.FixtureRequest) -> Any:
    """Return the model of a test that names it among its fixtures, or ``None``."""
    named = getattr(request.node, "fixturenames", ())  # the request's own grow as the test runs
    return request.getfixturevalue(FIXTURE) if FIXTURE in named else None


@contextmanager
def guarded(model: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Put back what a test leaves changed on the model, and name it; load what cannot be put back.

    A test that has failed already is told beside its failure, not failed twice.
    """
    config, item = request.config, request.node
    shared = config.stash[SHARED].get(id(model))
    mode = settings_of(item, config.stash[SETTINGS]).leaks
    if shared is None or mode == "off":
        yield
        return
    leave = shared.guard.enter(item.nodeid)
    yield
    left, unseen = leave(), shared.guard.unseen
    if not left and not unseen:
        return
    told = [unseen] if unseen else []
    if left:
        told.append("left on the model: " + "; ".join(leak.text for leak in left))
    text = "; ".join(told)
    if unseen or any(leak.is_lost for leak in left):
        text += "; it is loaded again"
        del config.stash[SHARED][id(model)]
        shared.fixture.finish(request)
    if mode == "warn":
        warnings.warn(f"{item.nodeid} {text}", stacklevel=1)
    elif PASSED in item.stash:
        raise LeakError(text)
    else:
        item.add_report_section("teardown", "nnsight", text)


def loaded_model(model: Any, item: pytest.Item | pytest.Session) -> LoadedModel:
    """Return a model with what is known of it."""
    from pytest_nnsight.loaded import LoadedModel

    config = item.config
    shared = config.stash[SHARED].get(id(model))
    spec = config.stash[SPECS].get(id(model))
    is_away = settings_of(item, config.stash[SETTINGS]).is_away
    return LoadedModel(model, spec, shared.guard if shared else None, is_away)


def capture_of(model: Any, item: pytest.Item | pytest.Session) -> Capture:
    """Return the helper that captures runs of a model, and measures noise where asked to."""
    from pytest_nnsight.away import remote_of
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.progress import saying, shows_bars

    config = item.config
    identify = loaded_model(model, item).identify
    calibrates = saying(config) if config.stash[SETTINGS].calibrate else None
    watching = config.stash.get(WATCH, None)
    reached = None if watching is None else watching.reach
    remote = remote_of(settings_of(item, config.stash[SETTINGS]), config, shows_bars(config))
    changing = config.stash.setdefault(CHANGING, WeakSet())
    return Capture(
        model, identify, calibrates=calibrates, reached=reached, remote=remote, changing=changing
    )


def _release() -> None:
    """Give the memory of models that nothing refers to back to their device."""
    if "torch" not in sys.modules:  # there was none
        return
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
