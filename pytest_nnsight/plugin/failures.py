"""Show a failure well: one line for a user's mistake, a section for what pytest does not show."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pytest_nnsight.errors import NnsightPluginError
from pytest_nnsight.plugin.keys import GOLDEN_ASSERTION, GOLDENS

HINT_SECTION = "nnsight: what went wrong"
_DRIFT_SECTION = "nnsight: golden"


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


def golden_message(config: pytest.Config, left: object, right: object) -> list[str] | None:
    """Return the message of a golden's comparison, ``None`` if neither side is a golden."""
    for side in (left, right):
        if isinstance(side, config.stash.get(GOLDEN_ASSERTION, ())):
            return list(side.get_assert_diff())
    return None


def add_drift_section(item: pytest.Item, report: Any) -> None:
    """Add a section with a drift that the failure does not show.

    pytest does not explain ``self.assertTrue(run == golden)`` or an assertion in a doctest.
    """
    unreported = item.stash[GOLDENS].unreported if GOLDENS in item.stash else None
    if unreported is not None and report.failed:
        report.sections.append((_DRIFT_SECTION, "\n".join(unreported())))
        report.user_properties = list(item.user_properties)


def add_hint_section(item: pytest.Item, call: pytest.CallInfo[None], report: Any) -> None:
    """Add a section that explains an error of nnsight, if a common mistake causes it."""
    model = getattr(item, "funcargs", {}).get("nnsight_model")
    if model is None or call.excinfo is None or call.when != "call" or not report.failed:
        return
    from pytest_nnsight.nnsight_api import explain

    function = getattr(item, "function", None)
    hint = explain(call.excinfo.value, model, function) if function else None
    if hint is not None:
        report.sections.append((HINT_SECTION, hint))
