"""Show a failure well: one line for a user's mistake, a section for what pytest does not show."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_nnsight.errors import NnsightLeakWarning, NnsightPluginError
from pytest_nnsight.plugin.keys import DETAIL_TEXTS, DETAILS, FIXTURE, GOLDEN_ASSERTION, GOLDENS

HINT_SECTION = "nnsight: what went wrong"


@contextmanager
def one_line_failures(item: pytest.Item) -> Iterator[None]:
    """Turn our own errors into failures without a traceback; add the line of the test file."""
    try:
        yield
    except NnsightPluginError as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(item.path)]
        text = f"{error} ({item.path.name}:{lines[-1]})" if lines else str(error)
        raise pytest.fail.Exception(text, pytrace=False) from None
    except NnsightLeakWarning as warning:  # a warning filter of the project makes it an error
        raise pytest.fail.Exception(f"NnsightLeakWarning: {warning}", pytrace=False) from None


@pytest.hookimpl(wrapper=True)
def pytest_assertrepr_compare(config: pytest.Config, left: object, right: object) -> Iterator[Any]:
    """Replace syrupy's text by the verdict where a golden is compared."""
    explained = yield
    for side in (left, right):
        if isinstance(side, config.stash.get(GOLDEN_ASSERTION, ())):
            return [list(side.get_assert_diff())]  # type: ignore[return-value]
    return explained


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the drift to a failure, if pytest does not show it, a common mistake, and details.

    pytest does not explain ``self.assertTrue(run == golden)`` or an assertion in a doctest.
    """
    report: Any = yield
    if report.failed:
        unreported = item.stash[GOLDENS].unreported if GOLDENS in item.stash else None
        if unreported is not None:
            report.sections.append(("nnsight: golden", "\n".join(unreported())))
            report.user_properties = list(item.user_properties)
        hint = _hint(item, call)
        if hint is not None:
            report.sections.append((HINT_SECTION, hint))
    if item.stash.get(DETAIL_TEXTS, None):
        setattr(report, DETAILS, item.stash[DETAIL_TEXTS])  # as text, which xdist can serialize
        item.stash[DETAIL_TEXTS] = []
    return report  # type: ignore[no-any-return]


def _hint(item: pytest.Item, call: pytest.CallInfo[None]) -> str | None:
    """Explain an error of nnsight, if a common mistake in the test causes it."""
    model = getattr(item, "funcargs", {}).get(FIXTURE)
    function = getattr(item, "function", None)
    if model is None or function is None or call.excinfo is None or call.when != "call":
        return None
    from pytest_nnsight.nnsight_api import explain

    return explain(call.excinfo.value, model, function)
