"""What every test of a session found: the section at its end, and its report files."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pytest_nnsight.errors import UsageError, hide_home, visible
from pytest_nnsight.plugin.failures import SECTION
from pytest_nnsight.plugin.items import command_of, test_id
from pytest_nnsight.plugin.keys import DETAILS, NOTE, RECORD
from pytest_nnsight.report.outcomes import FORMAT

PACKAGES = ("pytest-nnsight", "nnsight", "torch", "transformers", "pytest")
_DEATH = re.compile(r"(HUNG|CRASHED|KILLED|EXITED|LOST)\b.*")
_RAISED = re.compile(r"(?:E\s+)?[\w.]*(?:Error|Exception|Interrupt|Exit)\b(?!.*Traceback)")
_WORST_FIRST = ("crashed", "hung", "error", "failed", "skipped", "passed")
_ENDINGS = (".json", ".html")


class Reporter:
    """The plugin object, where results come together, that tells of a session and writes reports.

    ``paths`` are those of ``--nnsight-report``.
    """

    def __init__(self, config: pytest.Config, paths: Sequence[str]) -> None:
        self._config = config
        self._paths = [config.invocation_params.dir / path for path in paths]
        for given, path in zip(paths, self._paths, strict=True):
            if path.suffix not in _ENDINGS or not path.parent.is_dir():
                endings = " or ".join(_ENDINGS)
                raise UsageError(
                    f"--nnsight-report: {given!r} is no {endings} file in a folder there is"
                )
        self._start = time.time()
        self._tests: dict[str, dict[str, Any]] = {}
        self._outdated: dict[str, int] = {}
        self._errors: list[dict[str, str]] = []
        self._exit_code = 0

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what could not be collected."""
        if report.failed:
            self._errors.append({"file": report.nodeid, "line": _first_line(report)})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep how each phase of a test ended; the worst counts."""
        name = test_id(self._config.rootpath, report.nodeid, report.location[0])
        test = self._tests.setdefault(name, _new(name, report))
        outcome, line = _outcome(report)
        if _WORST_FIRST.index(outcome) < _WORST_FIRST.index(test["outcome"]):
            test["outcome"], test["line"] = outcome, line
            test["text"] = visible_lines(report.longreprtext)
            test["hint"] = next((text for name, text in report.sections if name == SECTION), "")
            test["command"] = hide_home(command_of(self._config, name))
        test["seconds"] = round(test["seconds"] + report.duration, 3)
        notes = [str(text) for key, text in report.user_properties if key == NOTE]
        test["notes"] = notes or test["notes"]
        every = [json.loads(str(text)) for key, text in report.user_properties if key == RECORD]
        records = every[self._outdated.get(name, 0) :]
        test["goldens"] = records or test["goldens"]
        if records and report.when == "call" and self._config.pluginmanager.hasplugin("html"):
            from pytest_nnsight.report.extras import pytest_html_extras

            report.extras = [*getattr(report, "extras", ()), *pytest_html_extras(records)]  # type: ignore[attr-defined]
        test.setdefault("details", []).extend(getattr(report, DETAILS, ()))
        if str(report.outcome) == "rerun":  # by pytest-rerunfailures: only the last attempt counts
            self._outdated[name] = len(every)
            test["goldens"], test["details"] = [], []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the reports, of whatever ran."""
        self._exit_code = int(session.exitstatus)
        if self._paths:
            self._write(self.document(detailed=True))
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary and any(map(_is_ours, self._tests.values())):
            from pytest_nnsight.report.github import step_summary

            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(step_summary(self.document()))

    def _write(self, document: dict[str, Any]) -> None:
        for path in self._paths:
            if path.suffix == ".html":
                from pytest_nnsight.report.page import render_page

                text = render_page(document)
            else:
                text = json.dumps(document, indent=1, allow_nan=False) + "\n"
            path.write_text(text, encoding="utf-8")

    def document(self, detailed: bool = False) -> dict[str, Any]:
        """Return the report of what has run so far; `docs/report.md` has its keys."""
        control = self._config.pluginmanager.getplugin("nnsight-control")
        return {
            "format": FORMAT,
            "kind": "report",
            "started": round(self._start, 3),
            "seconds": round(time.time() - self._start, 3),
            "exit_code": self._exit_code,
            "versions": {name: metadata.version(name) for name in PACKAGES},
            "models": [hide_home(m) for m in self._config.getoption("nnsight_model") or ()],
            "tests": [_told(test, detailed) for test in self._tests.values()],
            "errors": self._errors,
            "not_run": control.left if control is not None else [],
        }

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what drifts, where and why, and where the reports are."""
        if any(map(_is_ours, self._tests.values())):
            self._tell(terminalreporter)
        for path in self._paths:
            terminalreporter.write_line(f"nnsight report: {path.name}")

    def _tell(self, terminalreporter: Any) -> None:
        from pytest_nnsight.report.terminal import session_lines

        writer = terminalreporter._tw  # the only way to its encoding, as of pytest 9
        encoding = getattr(writer._file, "encoding", None) or "ascii"
        lines = [*session_lines(self.document(), self._config.get_verbosity(), encoding)]
        if lines and self._config.get_verbosity() >= 0:
            terminalreporter.section("nnsight")
        for line in lines:
            markup = {} if line.is_good is None else {"green" if line.is_good else "red": True}
            terminalreporter.write_line(line.text, **markup)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            from pytest_nnsight.report.github import annotation_lines

            for text in annotation_lines(self.document()):
                terminalreporter.write_line(text)


def _is_ours(test: dict[str, Any]) -> bool:
    """Tell whether a test compared a golden, has a note or died: others are not reported on."""
    return bool(test["goldens"] or test["notes"]) or test["outcome"] in ("hung", "crashed")


def _new(name: str, report: pytest.TestReport) -> dict[str, Any]:
    file, line, _ = report.location
    return {
        "test": name,
        "file": file,
        "line_number": (line or 0) + 1,
        "outcome": "passed",
        "seconds": 0.0,
        "line": "",
        "goldens": [],
        "notes": [],
    }


def _told(test: dict[str, Any], detailed: bool) -> dict[str, Any]:
    """Return a test as the report has it: details, where there are any, with their goldens."""
    told = {name: value for name, value in test.items() if name != "details"}
    if detailed and len(test["details"]) == len(test["goldens"]):
        pairs = zip(test["goldens"], test["details"], strict=True)
        told["goldens"] = [{**golden, "detail": json.loads(text)} for golden, text in pairs]
    return told


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
    if first.endswith("Traceback (most recent call last):"):  # of nnsight before 0.8
        first = next((x for x in reversed(lines) if _RAISED.match(x)), first)
    for prefix in ("AssertionError: ", "Failed: ", "assert "):
        first = first.removeprefix(prefix)
    return visible(hide_home(first))


def visible_lines(text: str) -> str:
    """Escape what a terminal would act on, line by line."""
    return "\n".join(visible(line) for line in hide_home(text).splitlines())
