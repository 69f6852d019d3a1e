"""How a test's failure is told: one line for a mistake, a section for what pytest does not say."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_nnsight.errors import NnsightPluginError
from pytest_nnsight.plugin.keys import GOLDEN_ASSERTION, GOLDENS

SECTION = "nnsight: what went wrong"
DRIFT = "nnsight: golden"


@contextmanager
def one_line_failures(item: pytest.Item) -> Iterator[None]:
    """Turn our own errors into failures without a traceback, with the line of the test."""
    try:
        yield
    except NnsightPluginError as error:
        raise pytest.fail.Exception(with_line(error, item), pytrace=False) from None


def golden_message(config: pytest.Config, left: object, right: object) -> list[str] | None:
    """Return the message of a golden's comparison, ``None`` if neither side is a golden."""
    for side in (left, right):
        if isinstance(side, config.stash.get(GOLDEN_ASSERTION, ())):
            return list(side.get_assert_diff())
    return None


def say_drift(item: pytest.Item, report: Any) -> None:
    """Add a section with a drift that the failure itself does not say.

    As where pytest explains no assertion: in doctests, in ``self.assertTrue(run == golden)``.
    """
    unreported = item.stash[GOLDENS].unreported if GOLDENS in item.stash else None
    if unreported is not None and report.failed:
        report.sections.append((DRIFT, "\n".join(unreported())))
        report.user_properties = list(item.user_properties)


def explain(item: pytest.Item, call: pytest.CallInfo[None], report: Any) -> None:
    """Add a section with the usual mistake that an error comes from, where it is one."""
    model = getattr(item, "funcargs", {}).get("nnsight_model")
    if model is None or call.excinfo is None or call.when != "call" or not report.failed:
        return
    from pytest_nnsight.nnsight_api import explain as explain_mistake

    function = getattr(item, "function", None)
    told = explain_mistake(call.excinfo.value, model, function) if function else None
    if told is not None:
        report.sections.append((SECTION, told))


def with_line(error: Exception, item: pytest.Item) -> str:
    """Return an error's message with the line of the test file that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(item.path)]
    return f"{error} ({item.path.name}:{lines[-1]})" if lines else str(error)
