"""What a comparison leaves for the reports: a record of its outcome, and on request all details.

A record is a user property, which comes through from workers and reaches JUnit files. Details are
far larger, and ride on the test's report alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.plugin.keys import DETAILS, RECORD

if TYPE_CHECKING:
    from pytest_nnsight.diagnose.diagnosis import Diagnosis, Finding


_KEPT = pytest.StashKey[list[str]]()


def note_match(item: pytest.Item, model: str, finding: Finding) -> None:
    """Keep what is to be known of a run that matched its golden."""
    from pytest_nnsight.report.record import record_of_match

    record = record_of_match(finding)
    if not item.config.getoption("nnsight_exact"):
        record.pop("unchecked", None)
    _keep(item, {**record, "model": model}, finding)


def note_failure(
    item: pytest.Item, model: str, finding: Finding, diagnosis: Diagnosis | None, line: str
) -> None:
    """Keep what a run came to that did not match; ``line`` is its verdict."""
    from pytest_nnsight.report.record import record_of_failure

    record = record_of_failure(finding, diagnosis)
    _keep(item, {**record, "line": line, "model": model}, finding)


def _keep(item: pytest.Item, record: dict[str, Any], finding: Finding) -> None:
    item.user_properties.append((RECORD, json.dumps(record, allow_nan=False)))
    if _KEPT in item.stash:
        from pytest_nnsight.report.detail import build_detail

        golden, found = finding.golden, None
        if golden is not None:
            found = build_detail(golden, finding.received, finding.comparison)
        item.stash[_KEPT].append(json.dumps(found, allow_nan=False))


class Details:
    """The plugin object, where tests run, that puts details on the reports of tests."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Make room for the details of a test."""
        item.stash[_KEPT] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        """Put what a phase has found on its report, as text: workers send it on as it is."""
        report: Any = yield
        if item.stash.get(_KEPT, None):
            setattr(report, DETAILS, item.stash[_KEPT])
            item.stash[_KEPT] = []
        return report  # type: ignore[no-any-return]
