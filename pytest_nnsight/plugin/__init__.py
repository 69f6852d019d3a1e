"""The pytest plugin: its hooks and fixtures.

In: pytest's hooks. Out: the fixtures ``nnsight_model``, ``nnsight_capture`` and ``nnsight_golden``.
Every pytest session imports it, so it must not import torch, transformers, nnsight or numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.options import MARKER_KEYS
from pytest_nnsight.plugin import checks, failures, model_guard, session_setup, shared_model
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.plugin.keys import FIXTURE, GOLDENS, PASSED, SETTINGS, SHARED, SPECS
from pytest_nnsight.settings import read_settings

if TYPE_CHECKING:
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.plugin.loaded_model import LoadedModel


def pytest_addoption(parser: pytest.Parser) -> None:
    """Define the command line options and ini keys."""
    session_setup.add_options(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Iterator[None]:
    """Load conftest files within a time limit."""
    with session_setup.conftest_loading(early_config):
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings, check them without a model, and register the plugin objects."""
    marker = f"nnsight({', '.join(MARKER_KEYS)}): settings of pytest-nnsight for one test"
    config.addinivalue_line("markers", marker)
    config.stash[SHARED], config.stash[SPECS] = {}, {}
    try:
        config.stash[SETTINGS] = read_settings(vars(config.option), config.getini)
        checks.check(config, config.stash[SETTINGS])
        session_setup.register_plugins(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Show the models under test, and the versions of the libraries that compute."""
    return session_setup.header_lines(config.stash[SETTINGS])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize each test that uses a model with the models of ``--nnsight-model``."""
    if FIXTURE not in metafunc.fixturenames:
        return
    try:
        settings = settings_of(metafunc.definition, metafunc.config.stash[SETTINGS])
        requests = shared_model.load_requests(settings)
    except UsageError as error:
        raise pytest.Collector.CollectError(str(error)) from None
    if requests:
        ids = [pytest.HIDDEN_PARAM] if len(requests) == 1 else [r.spec.name for r in requests]
        metafunc.parametrize(FIXTURE, requests, ids=ids, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the tests of ``--nnsight-suite``."""
    if session.config.stash[SETTINGS].suite:
        items.extend(session_setup.collect_suite(session))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Show a user's mistake in a fixture as one line."""
    with failures.one_line_failures(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Prepare the goldens of a test that passed: this reads the weights of the model."""
    with failures.one_line_failures(item):
        model_guard.accept_fixture_changes(item)
        result = yield
        if GOLDENS in item.stash:
            item.stash[GOLDENS].prepare_writes()
        item.stash[PASSED] = True
        return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Write the goldens of a test that passed and left the model unchanged."""
    with failures.one_line_failures(item):
        result = yield
        if GOLDENS in item.stash:
            item.stash[GOLDENS].write_prepared()
        return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add sections to a failure: the drift, if pytest does not show it, and a common mistake."""
    report = yield
    failures.add_drift_section(item, report)
    failures.add_hint_section(item, call, report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Iterator[Any]:
    """Guard the model that ``nnsight_model`` returns, also if the project overrides the fixture."""
    with model_guard.checked_fixture(fixturedef, request):
        model = yield
    if fixturedef.argname == FIXTURE:
        model_guard.start_guarding(model, fixturedef, request.config)
    return model


@pytest.hookimpl(wrapper=True)
def pytest_assertrepr_compare(config: pytest.Config, left: object, right: object) -> Iterator[Any]:
    """Replace syrupy's text by the verdict where a golden is compared."""
    explained = yield
    message = failures.golden_message(config, left, right)
    return explained if message is None else [message]  # type: ignore[return-value]


@pytest.fixture(scope="session")
def nnsight_model(request: pytest.FixtureRequest) -> Any:
    """The model under test: an nnsight model in eval mode, loaded once a session.

    def test_shape(nnsight_model):
        with nnsight_model.trace("Hello"):
            hidden = nnsight_model.transformer.h[0].output.save()
    """
    return shared_model.load_model(request)


@pytest.fixture(autouse=True)
def _nnsight_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check what a test changes on the model; autouse, to start before the test's other fixtures.

    It has function scope: fixtures of wider scope may change the model for all of their tests.
    """
    with model_guard.guarded(model_guard.requested_model(request), request):
        yield


@pytest.fixture
def _nnsight_loaded(nnsight_model: Any, request: pytest.FixtureRequest) -> Iterator[LoadedModel]:
    """The model with its spec; guarded from now on if the test requests it while it runs."""
    is_guarded = model_guard.requested_model(request) is not None  # by `_nnsight_guard`
    with nullcontext() if is_guarded else model_guard.guarded(nnsight_model, request):
        yield shared_model.find_loaded_model(nnsight_model, request.node)


@pytest.fixture
def nnsight_capture(_nnsight_loaded: LoadedModel, request: pytest.FixtureRequest) -> Capture:
    """Capture what every module computes: ``.trace(prompt)`` and ``.generate(prompt)``.

    def test_stream(nnsight_capture, nnsight_golden):
        run = nnsight_capture.trace("The Eiffel Tower is in", modules="transformer.h.*")
        assert run == nnsight_golden
    """
    return shared_model.make_capture(_nnsight_loaded.model, request.node)


@pytest.fixture(scope="session")
def nnsight_session_capture(nnsight_model: Any, request: pytest.FixtureRequest) -> Capture:
    """The same as `nnsight_capture`, for fixtures of wider scope: one run for several tests.

    @pytest.fixture(scope="session")
    def run(nnsight_session_capture):
        return nnsight_session_capture.trace("The Eiffel Tower is in")
    """
    return shared_model.make_capture(nnsight_model, request.node)


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
