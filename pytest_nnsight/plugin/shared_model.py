"""The model that tests share: loaded once, guarded from test to test, loaded again where needed.

`plugin` imports it with itself, in every pytest run: it imports nothing that an unused plugin can
do without.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import pytest

from pytest_nnsight.errors import LeakError, UsageError
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.plugin.keys import (
    CHANGING,
    FIXTURE,
    GOLDENS,
    NOTE,
    PASSED,
    SETTINGS,
    SHARED,
    SPECS,
    WATCHDOG,
)
from pytest_nnsight.settings import Settings

if TYPE_CHECKING:
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.guard.leak import Leak
    from pytest_nnsight.plugin.loaded_model import LoadedModel, LoadRequest, SharedModel


def load_requests(metafunc: pytest.Metafunc, settings: Settings) -> list[LoadRequest]:
    """Return what to load for one test function, a request for each model."""
    return _requests(settings_of(metafunc.definition, settings))


def _requests(own: Settings) -> list[LoadRequest]:
    if not own.model:
        return []
    from pytest_nnsight.models.spec import LoadOptions, parse_spec
    from pytest_nnsight.plugin.loaded_model import LoadRequest

    how = (own.device_map, own.dtype, own.attn, own.trust_remote_code, own.is_remote)
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
    from pytest_nnsight.plugin.progress import shows_bars, uncaptured

    with uncaptured(request.config) as say, _load_time(request.config, wanted.spec.public):
        _release()  # of a model before this one: pytest lets go of it only after its fixture's end
        with gc_paused():
            from pytest_nnsight.models.loading import load  # imports torch, which takes seconds

            model = load(wanted.spec, wanted.options, say, shows_bars(request.config))
    request.config.stash[SPECS] = {id(model): wanted.spec}
    yield model


def _load_time(config: pytest.Config, name: str) -> AbstractContextManager[None]:
    """Let what is done count as loading a model, which has its own limit."""
    watching = config.stash.get(WATCHDOG, None)
    limit: AbstractContextManager[None] = nullcontext()
    return limit if watching is None else watching.loading(name)


def share(model: Any, fixture: pytest.FixtureDef[Any], config: pytest.Config) -> None:
    """Guard a model that its fixture has just made, until it is taken down; not a test's own."""
    if fixture.scope == "function" or config.stash[SETTINGS].leaks == "off":
        return
    with _load_time(config, "its weights"):
        from pytest_nnsight.guard.guard import Guard
        from pytest_nnsight.plugin.loaded_model import SharedModel

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
    """Restore what a test left changed and name it; load the model again where that is needed.

    A test that has failed already gets a section in its report, not a second failure.
    """
    config, item = request.config, request.node
    shared = config.stash[SHARED].get(id(model))
    mode = settings_of(item, config.stash[SETTINGS]).leaks
    if shared is not None and mode == "off":
        shared.guard.skip(item.nodeid)
    if mode == "off" or (shared is None and not _uses_models(config)):
        yield
        return
    leave, change = _enter(config, shared, item.nodeid), ""
    if shared is not None and shared.guard.change:
        change = f"the model is not what was loaded: {shared.guard.change}"
        if mode == "fail":
            _load_again(id(model), shared, request)
            raise LeakError(f"{change}; it is loaded again")
        warnings.warn(change, stacklevel=1)
    yield
    _report(leave(), model, shared, request, mode)


def _enter(
    config: pytest.Config, shared: SharedModel | None, test: str
) -> Callable[[], list[Leak]]:
    """Begin a test; one that does not use the model can still replace functions of torch."""
    if shared is not None:
        return shared.guard.enter(test)
    from pytest_nnsight.guard.patches import snapshot_patches

    models = [other.guard.model for other in config.stash[SHARED].values()]
    restore = snapshot_patches(models[0] if models else None)
    return lambda: [*restore()]


def _uses_models(config: pytest.Config) -> bool:
    return "torch" in sys.modules and bool(config.stash[SETTINGS].model or config.stash[SHARED])


def _report(
    leaks: list[Leak],
    model: Any,
    shared: SharedModel | None,
    request: pytest.FixtureRequest,
    mode: str,
) -> None:
    """Say what a test left changed: as a note, a warning, a failure, or beside its own failure."""
    from pytest_nnsight.guard.leak import Severity

    item, change = request.node, shared.guard.change if shared is not None else ""
    notes = [leak.text for leak in leaks if leak.severity == Severity.NOTE]
    item.user_properties += [(NOTE, text) for text in notes]
    leaks = [leak for leak in leaks if leak.severity > Severity.NOTE]
    if not leaks and not change:
        return
    parts = [change] if change else []
    if leaks:
        parts.append("left on the model: " + "; ".join(leak.text for leak in leaks))
    text = "; ".join(parts)
    worst = max((leak.severity for leak in leaks), default=Severity.NOTE)
    if shared is not None and (change or worst == Severity.LOST):
        text += "; it is loaded again"
        _load_again(id(model), shared, request)
    if mode == "warn":
        if GOLDENS in item.stash and item.stash[GOLDENS].discard_if(change or worst > 1):
            text += "; its goldens are not written"
        warnings.warn(f"{item.nodeid} {text}", stacklevel=1)
    elif PASSED in item.stash:
        raise LeakError(text)
    else:
        item.add_report_section("teardown", "nnsight", text)


def _load_again(key: int, shared: SharedModel, request: Any) -> None:
    """Take down the fixture of a model, so that the next test that asks for it loads it again."""
    request.config.stash[SHARED].pop(key, None)
    shared.fixture.finish(request)


def accept_fixture_changes(item: pytest.Item) -> None:
    """Accept what the fixtures of a test changed on the model before the test itself runs."""
    for shared in item.config.stash[SHARED].values():
        shared.guard.begin_call(item.nodeid)


@contextmanager
def checked_fixture(
    fixture: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Iterator[None]:
    """Let a fixture of wider scope change the weights for its tests; it must restore them."""
    config = request.config
    if fixture.scope == "function" or fixture.argname == FIXTURE:
        yield
        return
    afterwards = []
    for key, shared in config.stash[SHARED].items():
        after_setup, after_teardown = shared.guard.enter_fixture(fixture.argname)
        afterwards.append(after_setup)
        fixture.addfinalizer(partial(_leave_fixture, request, key, after_teardown))
    yield
    for after_setup in afterwards:
        after_setup()


def _leave_fixture(request: Any, key: int, after_teardown: Callable[[], str]) -> None:
    shared = request.config.stash[SHARED].get(key)
    left = after_teardown() if shared is not None else ""
    if shared is None or not left:
        return
    _load_again(key, shared, request)
    text = f"{left}; the model is loaded again"
    if request.config.stash[SETTINGS].leaks == "fail":
        raise LeakError(text)
    warnings.warn(text, stacklevel=1)


def loaded_model(model: Any, item: pytest.Item | pytest.Session) -> LoadedModel:
    """Return a model with what is known of it."""
    from pytest_nnsight.plugin.loaded_model import LoadedModel

    config = item.config
    shared = config.stash[SHARED].get(id(model))
    spec = config.stash[SPECS].get(id(model))
    is_remote = settings_of(item, config.stash[SETTINGS]).is_remote
    return LoadedModel(model, spec, shared.guard if shared else None, is_remote)


def capture_of(model: Any, item: pytest.Item | pytest.Session) -> Capture:
    """Return the helper that captures runs of a model, and measures noise where asked to."""
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.plugin.progress import saying, shows_bars
    from pytest_nnsight.plugin.remote_options import remote_of

    config = item.config
    identify = loaded_model(model, item).identify
    calibrates = saying(config) if config.stash[SETTINGS].calibrate else None
    watching = config.stash.get(WATCHDOG, None)
    reached = None if watching is None else watching.record_module
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
