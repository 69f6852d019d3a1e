"""Guard the models that tests share: restore what a test changed, reload what cannot be restored.

`SHARED` holds the guarded models. `guard` has the checks; this module calls them at the right time
and reports what they find. Every pytest session imports it, so it imports `guard` when needed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.errors import LeakError
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.plugin.keys import FIXTURE, GOLDENS, NOTE, PASSED, SETTINGS, SHARED
from pytest_nnsight.plugin.shared_model import loading_time

if TYPE_CHECKING:
    from pytest_nnsight.guard.leak import Leak
    from pytest_nnsight.plugin.loaded_model import SharedModel


def start_guarding(model: Any, fixture: pytest.FixtureDef[Any], config: pytest.Config) -> None:
    """Guard a model from now until its fixture ends; skip the models of function scope.

    The guard reads all weights once now, and once more at the end.
    """
    if fixture.scope == "function" or config.stash[SETTINGS].leaks == "off":
        return
    with loading_time(config, "its weights"):
        from pytest_nnsight.guard.guard import Guard
        from pytest_nnsight.plugin.loaded_model import SharedModel

        config.stash[SHARED][id(model)] = SharedModel(Guard(model), fixture)
    fixture.addfinalizer(partial(_stop_guarding, config, id(model)))


def _stop_guarding(config: pytest.Config, key: int) -> None:
    """Check all weights of a model whose fixture ends."""
    shared = config.stash[SHARED].pop(key, None)
    change = shared.guard.end() if shared else ""
    if change:
        _fail_or_warn(config, f"the model is not what was loaded: {change}")


def _fail_or_warn(config: pytest.Config, text: str) -> None:
    if config.stash[SETTINGS].leaks == "fail":
        raise LeakError(text)
    warnings.warn(text, stacklevel=1)


def requested_model(request: pytest.FixtureRequest) -> Any:
    """Return the model of a test that requests it by a fixture argument, or ``None``."""
    # Not `request.fixturenames`, which grows while the test runs.
    names = getattr(request.node, "fixturenames", ())
    return request.getfixturevalue(FIXTURE) if FIXTURE in names else None


@contextmanager
def guarded(model: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test, then restore what it changed and report it; reload the model if necessary.

    A failed test gets a section in its report and no second failure. A test without the model
    is checked too: it can replace functions of torch.
    """
    config, item = request.config, request.node
    shared = config.stash[SHARED].get(id(model))
    mode = settings_of(item, config.stash[SETTINGS]).leaks
    if shared is not None and mode == "off":
        shared.guard.skip(item.nodeid)
    uses_models = bool(config.stash[SETTINGS].model or config.stash[SHARED])
    if mode == "off" or (shared is None and not (uses_models and "torch" in sys.modules)):
        yield
        return
    restore = _snapshot(config, shared, item.nodeid)
    if shared is not None and shared.guard.change:
        change = f"the model is not what was loaded: {shared.guard.change}"
        if mode == "fail":
            _reload(id(model), shared, request)
            raise LeakError(f"{change}; it is loaded again")
        warnings.warn(change, stacklevel=1)
    yield
    _report(restore(), model, shared, request, mode)


def _snapshot(
    config: pytest.Config, shared: SharedModel | None, test: str
) -> Callable[[], list[Leak]]:
    """Snapshot the state before a test; return the function that restores and reports it."""
    if shared is not None:
        return shared.guard.enter(test)
    from pytest_nnsight.guard.patches import snapshot_patches

    models = [other.guard.model for other in config.stash[SHARED].values()]
    restore = snapshot_patches(models[0] if models else None)
    return lambda: [*restore()]


def _report(
    leaks: list[Leak],
    model: Any,
    shared: SharedModel | None,
    request: pytest.FixtureRequest,
    mode: str,
) -> None:
    """Report what a test changed, by severity and mode: a note, a warning, or a failure."""
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
        _reload(id(model), shared, request)
    if mode == "warn":
        is_distrusted = change or worst >= Severity.DISTRUST
        goldens = item.stash.get(GOLDENS, None) if is_distrusted else None
        if goldens is not None and goldens.prepared:
            goldens.prepared.clear()
            text += "; its goldens are not written"
        warnings.warn(f"{item.nodeid} {text}", stacklevel=1)
    elif PASSED in item.stash:
        raise LeakError(text)
    else:
        item.add_report_section("teardown", "nnsight", text)


def _reload(key: int, shared: SharedModel, request: Any) -> None:
    """End the fixture of a model, so that the next test that requests it loads it again."""
    request.config.stash[SHARED].pop(key, None)
    shared.fixture.finish(request)


def accept_fixture_changes(item: pytest.Item) -> None:
    """Accept the changes that the fixtures of a test made: call it before the test's own code."""
    for shared in item.config.stash[SHARED].values():
        shared.guard.begin_call(item.nodeid)


@contextmanager
def checked_fixture(
    fixture: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Iterator[None]:
    """Set up a fixture of wider scope, which may change weights if its teardown restores them."""
    shared_models = request.config.stash[SHARED]
    if fixture.scope == "function" or fixture.argname == FIXTURE:
        yield
        return
    callbacks = []
    for key, shared in shared_models.items():
        after_setup, after_teardown = shared.guard.enter_fixture(fixture.argname)
        callbacks.append(after_setup)
        fixture.addfinalizer(partial(_check_teardown, request, key, after_teardown))
    yield
    for after_setup in callbacks:
        after_setup()


def _check_teardown(request: Any, key: int, after_teardown: Callable[[], str]) -> None:
    """Reload the model if the teardown of a fixture left weights changed."""
    shared = request.config.stash[SHARED].get(key)
    change = after_teardown() if shared is not None else ""
    if shared is not None and change:
        _reload(key, shared, request)
        _fail_or_warn(request.config, f"{change}; the model is loaded again")
