"""Record for each test which feature of nnsight it covers, and its outcome.

``--coverage-to FOLDER`` writes ``nnsight-VERSION.json`` there. ``table.py`` turns several of these
files into ``docs/coverage.md`` (``make coverage``).
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

NNSIGHT = metadata.version("nnsight")
VERSION = tuple(int(part) for part in NNSIGHT.split(".")[:2])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--coverage-to", metavar="FOLDER", help="write the outcome of each feature's tests"
    )


def pytest_configure(config: pytest.Config) -> None:
    folder = config.getoption("coverage_to")
    if folder and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_FeatureOutcomes(config.rootpath / folder))


class _FeatureOutcomes:
    """Collects the outcome of each test of a feature, in the controller."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        row = self._rows.setdefault(report.nodeid, {"outcome": "passed", "why": ""})
        if report.outcome != "passed" or hasattr(report, "wasxfail"):
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
            row |= {"outcome": report.outcome, "why": getattr(report, "wasxfail", why)}
        row |= json.loads(str(dict(report.user_properties).get("feature", "{}")))

    def pytest_sessionfinish(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        rows = [self._rows[key] | {"test": key} for key in sorted(self._rows)]
        path = self._folder / f"nnsight-{NNSIGHT}.json"
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


@pytest.fixture(autouse=True)
def _record_feature(request: pytest.FixtureRequest, record_property: Any) -> None:
    """Record which feature a test covers, and with which model."""
    feature, what = request.node.get_closest_marker("feature").args
    uses_model = "nnsight_model" in request.fixturenames
    model = request.getfixturevalue("_nnsight_loaded").name if uses_model else ""
    record_property("feature", json.dumps({"feature": feature, "what": what, "model": model}))


@pytest.fixture
def since_nnsight() -> Any:
    """Return a function that skips a test on older nnsight; the reason says what is missing."""

    def since_nnsight(minor: int, what: str) -> None:
        if (0, minor) > VERSION:
            pytest.skip(f"nnsight 0.{minor - 1} and before: {what}")

    return since_nnsight
