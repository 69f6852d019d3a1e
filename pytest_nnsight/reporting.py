"""``--nnsight-report``: what every test of a session found; `docs/report.md` has its keys."""

from __future__ import annotations

import json
import re
import time
from importlib import metadata
from typing import Any

import pytest

from pytest_nnsight.errors import UsageError, hide_home, visible
from pytest_nnsight.outcomes import FORMAT
from pytest_nnsight.summary import RECORD

PACKAGES = ("pytest-nnsight", "nnsight", "torch", "transformers", "pytest")
_DEATH = re.compile(r"(HUNG|CRASHED|KILLED|EXITED)\b.*")
_WORST_FIRST = ("crashed", "hung", "error", "failed", "skipped", "passed")


class Reporter:
    """The plugin object, where results come together, that writes the report of a session."""

    def __init__(self, config: pytest.Config, path: str) -> None:
        self._config, self._path = config, config.invocation_params.dir / path
        if self._path.suffix != ".json" or not self._path.parent.is_dir():
            raise UsageError(f"--nnsight-report: {path!r} is no .json file in a folder there is")
        self._start = time.time()
        self._tests: dict[str, dict[str, Any]] = {}
        self._errors: list[dict[str, str]] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what could not be collected."""
        if report.failed:
            self._errors.append({"file": report.nodeid, "line": _first_line(report)})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep how each phase of a test ended; the worst counts."""
        new: dict[str, Any] = {"outcome": "passed", "seconds": 0.0, "line": "", "goldens": []}
        test = self._tests.setdefault(report.nodeid, {"test": report.nodeid, **new})
        outcome, line = _outcome(report)
        if _WORST_FIRST.index(outcome) < _WORST_FIRST.index(test["outcome"]):
            test["outcome"], test["line"] = outcome, line
            test["text"] = visible_lines(report.longreprtext)
        test["seconds"] = round(test["seconds"] + report.duration, 3)
        records = [json.loads(str(text)) for name, text in report.user_properties if name == RECORD]
        test["goldens"] = records or test["goldens"]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report, of whatever ran."""
        control = self._config.pluginmanager.getplugin("nnsight-control")
        document = {
            "format": FORMAT,
            "kind": "report",
            "started": round(self._start, 3),
            "seconds": round(time.time() - self._start, 3),
            "exit_code": int(session.exitstatus),
            "versions": {name: metadata.version(name) for name in PACKAGES},
            "models": list(self._config.getoption("nnsight_model") or ()),
            "tests": list(self._tests.values()),
            "errors": self._errors,
            "not_run": control.left if control is not None else [],
        }
        self._path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where the report is."""
        terminalreporter.write_line(f"nnsight report: {self._path.name}")


def _outcome(report: pytest.TestReport) -> tuple[str, str]:
    """Return how a phase of a test ended, and the line that tells of it."""
    if report.skipped:
        return "skipped", _first_line(report)
    if not report.failed:
        return "passed", ""
    line = _first_line(report)
    death = _DEATH.match(line)
    if death is not None:
        return ("hung" if death[1] == "HUNG" else "crashed"), line
    return ("failed" if report.when == "call" else "error"), line


def _first_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the line that pytest's own short summary shows of a failure."""
    told: Any = report.longrepr
    if isinstance(told, tuple):
        return visible(str(told[2]))
    message = getattr(getattr(told, "reprcrash", None), "message", None)
    plain = told if isinstance(told, str) else report.longreprtext  # that names the worker first
    lines = (message or plain or "").strip().splitlines() or [""]
    raised = [line for line in lines if line.startswith("E  ")]
    first = raised[-1][1:].strip() if raised else lines[0]  # of an import, what it ended with
    for prefix in ("AssertionError: ", "Failed: ", "assert "):
        first = first.removeprefix(prefix)
    return visible(hide_home(first))


def visible_lines(text: str) -> str:
    """Escape what a terminal would act on, line by line."""
    return "\n".join(visible(line) for line in hide_home(text).splitlines())
