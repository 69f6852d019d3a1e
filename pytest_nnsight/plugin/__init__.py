"""Hooks and fixtures of the pytest plugin.

Loaded in every pytest run, also where it is not used, so heavy imports wait for the first test.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.options import MARKER_KEYS
from pytest_nnsight.plugin import checks, failures, shared_model
from pytest_nnsight.plugin import session as wiring
from pytest_nnsight.plugin.keys import FIXTURE, GOLDENS, PASSED, SETTINGS, SHARED, SPECS
from pytest_nnsight.settings import read_settings

if TYPE_CHECKING:
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.plugin.loaded_model import LoadedModel


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer every option of `settings` on the command line and as ini key."""
    wiring.add_options(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Load conftest files within the time that loading has, where a model is configured."""
    with wiring.conftest_loading(early_config):
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings and check what can be checked without a model."""
    config.addinivalue_line(
        "markers",
        f"nnsight({', '.join(MARKER_KEYS)}): settings of pytest-nnsight for one test",
    )
    config.stash[SHARED], config.stash[SPECS] = {}, {}
    try:
        config.stash[SETTINGS] = read_settings(vars(config.option), config.getini)
        checks.check(config, config.stash[SETTINGS])
        wiring.watch(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name the models under test and the versions that decide what they compute."""
    return wiring.header(config.stash[SETTINGS])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that uses a model one run for each ``--nnsight-model``."""
    if "nnsight_model" not in metafunc.fixturenames:
        return
    try:
        requests = shared_model.load_requests(metafunc, metafunc.config.stash[SETTINGS])
    except UsageError as error:
        raise pytest.Collector.CollectError(str(error)) from None
    if requests:
        hidden = [pytest.HIDDEN_PARAM] if len(requests) == 1 else [r.spec.name for r in requests]
        metafunc.parametrize("nnsight_model", requests, ids=hidden, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the built-in suite's tests where it was asked for."""
    if session.config.stash[SETTINGS].suite:
        items.extend(wiring.collect_suite(session))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Show a user's mistake in a fixture as one line."""
    with failures.one_line_failures(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Make the goldens of a test that has passed ready, while the model is at hand."""
    with failures.one_line_failures(item):
        shared_model.accept_fixture_changes(item)
        result = yield
        if GOLDENS in item.stash:
            item.stash[GOLDENS].prepare_writes()
        item.stash[PASSED] = True
        return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Write the goldens of a test once it has passed and left the model as it was."""
    with failures.one_line_failures(item):
        result = yield
        if GOLDENS in item.stash:
            item.stash[GOLDENS].write_prepared()
        return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Name the mistake below a failure that is a usual one, and a drift that nobody has named."""
    report = yield
    failures.say_drift(item, report)
    failures.explain(item, call, report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Iterator[Any]:
    """Guard the model that tests share, ours or a user's own."""
    with shared_model.checked_fixture(fixturedef, request):
        model = yield
    if fixturedef.argname == FIXTURE:
        shared_model.share(model, fixturedef, request.config)
    return model


@pytest.hookimpl(wrapper=True)
def pytest_assertrepr_compare(config: pytest.Config, left: object, right: object) -> Iterator[Any]:
    """Replace syrupy's text by the verdict where a golden is compared."""
    explained = yield
    message = failures.golden_message(config, left, right)
    return explained if message is None else [message]  # type: ignore[return-value]


@pytest.fixture(scope="session")
def nnsight_model(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The model under test: an nnsight model, loaded and dispatched once a session, in eval mode.

    def test_shape(nnsight_model):
        with nnsight_model.trace("Hello"):
            hidden = nnsight_model.transformer.h[0].output.save()
    """
    with shared_model.loaded(request) as model:
        yield model


@pytest.fixture(autouse=True)
def _nnsight_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Watch what a test that uses the model leaves behind on it; autouse, to begin before others.

    What fixtures of wider scope do to a model holds for all of their tests.
    """
    with shared_model.guarded(shared_model.named_model(request), request):
        yield


@pytest.fixture
def _nnsight_loaded(nnsight_model: Any, request: pytest.FixtureRequest) -> Iterator[LoadedModel]:
    """The model with its spec; guarded from here on in a test that asks for it while it runs."""
    unguarded = nnsight_model if shared_model.named_model(request) is None else None
    with shared_model.guarded(unguarded, request):
        yield shared_model.loaded_model(nnsight_model, request.node)


@pytest.fixture
def nnsight_capture(_nnsight_loaded: LoadedModel, request: pytest.FixtureRequest) -> Capture:
    """Capture what every module computes: ``.trace(prompt)`` and ``.generate(prompt)``.

    def test_stream(nnsight_capture, nnsight_golden):
        run = nnsight_capture.trace("The Eiffel Tower is in", modules="transformer.h.*")
        assert run == nnsight_golden
    """
    return shared_model.capture_of(_nnsight_loaded.model, request.node)


@pytest.fixture(scope="session")
def nnsight_session_capture(nnsight_model: Any, request: pytest.FixtureRequest) -> Capture:
    """The same as `nnsight_capture`, for fixtures of wider scope: one run for several tests.

    @pytest.fixture(scope="session")
    def run(nnsight_session_capture):
        return nnsight_session_capture.trace("The Eiffel Tower is in")
    """
    return shared_model.capture_of(nnsight_model, request.node)


@pytest.fixture
def nnsight_golden(_nnsight_loaded: LoadedModel, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The golden of this test: compare a run, or a dict of tensors, with ``==``.

    def test_stream(nnsight_capture, nnsight_golden):
        assert nnsight_capture.trace("Hello") == nnsight_golden
        assert nnsight_capture.trace("Bye") == nnsight_golden(name="bye")
    """
    from pytest_nnsight.plugin.golden_fixture import golden_assertion

    with golden_assertion(_nnsight_loaded, request) as assertion:
        yield assertion
