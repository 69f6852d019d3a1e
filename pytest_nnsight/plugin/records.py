"""Attach what a comparison found to the test report: a record, and with reports all details.

A record is a user property: workers send it to the controller, and it is written to JUnit files.
Details are much larger, so they are only sent with the report, if ``--nnsight-report`` needs them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.plugin.keys import DETAILS, RECORD

if TYPE_CHECKING:
    from pytest_nnsight.diagnose.diagnosis import Diagnosis, Finding

_DETAILS = pytest.StashKey[list[str]]()


def note_match(item: pytest.Item, model: str, finding: Finding) -> None:
    """Attach the record of a run that matches its golden."""
    from pytest_nnsight.report.record import record_of_match

    record = record_of_match(finding)
    if not item.config.getoption("nnsight_exact"):
        record.pop("unchecked", None)
    _attach(item, {**record, "model": model}, finding)


def note_failure(
    item: pytest.Item, model: str, finding: Finding, diagnosis: Diagnosis | None, line: str
) -> None:
    """Attach the record of a run that does not match; ``line`` is the verdict."""
    from pytest_nnsight.report.record import record_of_failure

    record = record_of_failure(finding, diagnosis)
    _attach(item, {**record, "line": line, "model": model}, finding)


def _attach(item: pytest.Item, record: dict[str, Any], finding: Finding) -> None:
    item.user_properties.append((RECORD, json.dumps(record, allow_nan=False)))
    if _DETAILS in item.stash:
        from pytest_nnsight.report.record import build_detail

        golden, details = finding.golden, None
        if golden is not None:
            details = build_detail(golden, finding.received, finding.comparison)
        item.stash[_DETAILS].append(json.dumps(details, allow_nan=False))


class DetailRecorder:
    """The plugin object of a process that runs tests: adds the details to their reports."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Start without details."""
        item.stash[_DETAILS] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        """Move the details of a phase to its report, as text, which xdist can serialize."""
        report: Any = yield
        if item.stash.get(_DETAILS, None):
            setattr(report, DETAILS, item.stash[_DETAILS])
            item.stash[_DETAILS] = []
        return report  # type: ignore[no-any-return]
