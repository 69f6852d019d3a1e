"""The pytest plugin: its fixtures, and the hooks that it takes from the modules next to it.

Every pytest session imports it, so it must not import torch, transformers, nnsight or numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.plugin import model_guard, shared_model
from pytest_nnsight.plugin.failures import (
    one_line_failures,
    pytest_assertrepr_compare,
    pytest_runtest_makereport,
)
from pytest_nnsight.plugin.keys import GOLDENS, PASSED, SHARED
from pytest_nnsight.plugin.model_guard import pytest_fixture_setup
from pytest_nnsight.plugin.session_setup import (
    pytest_addoption,
    pytest_cmdline_main,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_generate_tests,
    pytest_load_initial_conftests,
    pytest_make_collect_report,
    pytest_report_header,
)

if TYPE_CHECKING:
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.plugin.shared_model import LoadedModel


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Show a user's mistake in a fixture as one line."""
    with one_line_failures(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Prepare the goldens of a test that passed: this reads the weights of the model."""
    with one_line_failures(item):
        for shared in item.config.stash[SHARED].values():
            shared.guard.begin_call(item.nodeid)
        result = yield
        if GOLDENS in item.stash:
            item.stash[GOLDENS].prepare_writes()
        item.stash[PASSED] = True
        return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Write the goldens of a test that passed and left the model unchanged."""
    with one_line_failures(item):
        result = yield
        if GOLDENS in item.stash:
            item.stash[GOLDENS].write_prepared()
        return result


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
