"""Guard the models that tests share: restore what a test changed, reload what cannot be restored.

`SHARED` holds the guarded models. `guard` has the checks; this module calls them at the right time
and reports what they find. Every pytest session imports it, so it imports `guard` when needed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_nnsight.errors import LeakError, NnsightLeakWarning
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.plugin.keys import FIXTURE, GOLDENS, NOTE, PASSED, SETTINGS, SHARED
from pytest_nnsight.plugin.shared_model import loading_time

if TYPE_CHECKING:
    from pytest_nnsight.guard.guard import Guard
    from pytest_nnsight.guard.leak import Leak


class SharedModel(NamedTuple):
    """The guard of a model that several tests use, and the fixture that made the model."""

    guard: Guard
    fixture: pytest.FixtureDef[Any]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Iterator[Any]:
    """Guard the model that ``nnsight_model`` returns, also if the project overrides the fixture.

    The guard reads all weights once now, and once more when the fixture ends. Models of function
    scope are not guarded. Other fixtures of wider scope may change weights if their teardown
    restores them.
    """
    checks = {}
    if fixturedef.scope != "function" and fixturedef.argname != FIXTURE:
        for key, shared in request.config.stash[SHARED].items():
            checks[key] = shared.guard.check_fixture(fixturedef.argname)
            next(checks[key])
            fixturedef.addfinalizer(partial(_check_teardown, request, key, checks[key]))
    result = yield
    for check in checks.values():
        next(check)
    config, is_checked = request.config, request.config.stash[SETTINGS].leaks != "off"
    if fixturedef.argname == FIXTURE and fixturedef.scope != "function" and is_checked:
        with loading_time(config, "its weights"):
            from pytest_nnsight.guard.guard import Guard

            config.stash[SHARED][id(result)] = SharedModel(Guard(result), fixturedef)
        fixturedef.addfinalizer(partial(_stop_guarding, config, id(result)))
    return result


def _stop_guarding(config: pytest.Config, key: int) -> None:
    """Check all weights of a model whose fixture ends."""
    shared = config.stash[SHARED].pop(key, None)
    if shared is not None and (change := shared.guard.end()):
        raise LeakError(f"the model is not what was loaded: {change}")


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
    mode = settings_of(item).leaks
    if shared is not None and mode == "off":
        shared.guard.skip(item.nodeid)
    uses_models = bool(config.stash[SETTINGS].model or config.stash[SHARED])
    if mode == "off" or (shared is None and not (uses_models and "torch" in sys.modules)):
        yield
        return
    if shared is not None:
        restore = shared.guard.enter(item.nodeid)
    else:
        from pytest_nnsight.guard.leak import take_snapshots
        from pytest_nnsight.guard.process_state import snapshot_patches

        models = [other.guard.model for other in config.stash[SHARED].values()]
        restore = take_snapshots([snapshot_patches], models[0] if models else None)
    if shared is not None and shared.guard.change:
        change = f"the model is not what was loaded: {shared.guard.change}"
        _reload(shared, request)
        raise LeakError(f"{change}; it is loaded again")
    yield
    _report(restore(), shared, request, mode)


def _report(leaks: list[Leak], shared: SharedModel | None, request: Any, mode: str) -> None:
    """Report what a test changed, by severity and mode: a note, a warning, or a failure."""
    from pytest_nnsight.guard.leak import Severity

    item, change = request.node, shared.guard.change if shared is not None else ""
    item.user_properties += [(NOTE, leak.text) for leak in leaks if leak.severity == Severity.NOTE]
    leaks = [leak for leak in leaks if leak.severity > Severity.NOTE]
    left = "; ".join(leak.text for leak in leaks)
    text = "; ".join(filter(None, [change, left and f"left on the model: {left}"]))
    if not text:
        return
    worst = max((leak.severity for leak in leaks), default=Severity.LOST)
    if shared is not None and (change or worst == Severity.LOST):
        text += "; it is loaded again"
        _reload(shared, request)
    if PASSED not in item.stash:
        item.add_report_section("teardown", "nnsight", text)
    elif mode == "fail" or change or worst == Severity.LOST:
        raise LeakError(text)
    else:
        _warn(item, text, is_distrusted=worst == Severity.DISTRUST)


def _warn(item: pytest.Item, text: str, is_distrusted: bool) -> None:
    """Warn at the place of a test; drop its goldens if its numbers may have changed."""
    goldens = item.stash.get(GOLDENS, None)
    if is_distrusted and goldens is not None and goldens.prepared:
        goldens.prepared.clear()
        text += "; its goldens are not written"
    file, line, _ = item.location
    warnings.warn_explicit(NnsightLeakWarning(text), None, file, (line or 0) + 1)


def _reload(shared: SharedModel, request: Any) -> None:
    """End the fixture of a model, so that the next test that requests it loads it again."""
    request.config.stash[SHARED].pop(id(shared.guard.model), None)
    shared.fixture.finish(request)


def _check_teardown(request: Any, key: int, check: Iterator[str]) -> None:
    """Reload the model if the teardown of a fixture left weights changed."""
    shared = request.config.stash[SHARED].get(key)
    if shared is not None and (change := next(check)):
        _reload(shared, request)
        raise LeakError(f"{change}; the model is loaded again")
