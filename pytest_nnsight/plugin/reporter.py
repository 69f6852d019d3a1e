"""Collect what every test found; print the summary section and write the report files."""

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
from pytest_nnsight.plugin.failures import HINT_SECTION
from pytest_nnsight.plugin.items import command_of, test_id
from pytest_nnsight.plugin.keys import DETAILS, NOTE, RECORD
from pytest_nnsight.report.outcomes import FORMAT, structural_changes

_PACKAGES = ("pytest-nnsight", "nnsight", "torch", "transformers", "pytest")
_CRASH = re.compile(r"(HUNG|CRASHED|KILLED|EXITED|LOST)\b.*")
_RAISED = re.compile(r"(?:E\s+)?[\w.]*(?:Error|Exception|Interrupt|Exit)\b(?!.*Traceback)")
_WORST_FIRST = ("crashed", "hung", "error", "failed", "skipped", "passed")


class Reporter:
    """The plugin object of the process that prints, where the results of all workers arrive.

    ``paths`` are the values of ``--nnsight-report``.
    """

    def __init__(self, config: pytest.Config, paths: Sequence[str]) -> None:
        self._config = config
        self._paths = [config.invocation_params.dir / path for path in paths]
        for text, path in zip(paths, self._paths, strict=True):
            if path.suffix not in (".json", ".html") or not path.parent.is_dir():
                raise UsageError(
                    f"--nnsight-report: {text!r} is not a .json or .html file in a folder that "
                    "exists; write it like drift.html"
                )
        self._start = time.time()
        self._tests: dict[str, dict[str, Any]] = {}
        self._outdated: dict[str, int] = {}  # per test, the records of attempts before a rerun
        self._errors: list[dict[str, str]] = []
        self._exit_code = 0

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Store an error of collection."""
        if report.failed:
            self._errors.append({"file": report.nodeid, "line": _first_line(report)})

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Store the result of one phase of a test; the worst phase decides the outcome."""
        file, line_number, _ = report.location
        name = test_id(self._config.rootpath, report.nodeid, file)
        new = {"test": name, "file": file, "line_number": (line_number or 0) + 1, "details": []}
        new |= {"outcome": "passed", "seconds": 0.0, "line": "", "goldens": [], "notes": []}
        test = self._tests.setdefault(name, new)
        outcome, line = _outcome(report)
        if _WORST_FIRST.index(outcome) < _WORST_FIRST.index(test["outcome"]):
            text = "\n".join(map(visible, hide_home(report.longreprtext).splitlines()))
            test |= {"outcome": outcome, "line": line, "text": text}
            test["hint"] = next((x for title, x in report.sections if title == HINT_SECTION), "")
            test["command"] = hide_home(command_of(self._config, name))
        test["seconds"] = round(test["seconds"] + report.duration, 3)
        notes = [str(text) for key, text in report.user_properties if key == NOTE]
        test["notes"] = notes or test["notes"]
        every = [json.loads(str(text)) for key, text in report.user_properties if key == RECORD]
        records = every[self._outdated.get(name, 0) :]
        test["goldens"] = records or test["goldens"]
        if records and report.when == "call" and self._config.pluginmanager.hasplugin("html"):
            from pytest_nnsight.report.page import pytest_html_extras

            report.extras = [*getattr(report, "extras", ()), *pytest_html_extras(records)]  # type: ignore[attr-defined]
        test["details"].extend(getattr(report, DETAILS, ()))
        if str(report.outcome) == "rerun":  # by pytest-rerunfailures: only the last attempt counts
            self._outdated[name] = len(every)
            test["goldens"], test["details"] = [], []

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report files, and GitHub's job summary, also if the session was cut off."""
        self._exit_code = int(session.exitstatus)
        document = self.document(detailed=True) if self._paths else {}
        for path in self._paths:
            if path.suffix == ".html":
                from pytest_nnsight.report.page import render_page

                text = render_page(document)
            else:
                text = json.dumps(document, indent=1, allow_nan=False) + "\n"
            path.write_text(text, encoding="utf-8")
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary and self._has_results():
            from pytest_nnsight.report.github import step_summary

            with Path(summary).open("a", encoding="utf-8") as file:
                file.write(step_summary(self.document()))

    def document(self, detailed: bool = False) -> dict[str, Any]:
        """Return the report of what has run so far; `docs/report.md` describes its keys."""
        control = self._config.pluginmanager.getplugin("nnsight-control")
        return {
            "format": FORMAT,
            "kind": "report",
            "started": round(self._start, 3),
            "seconds": round(time.time() - self._start, 3),
            "exit_code": self._exit_code,
            "versions": {name: metadata.version(name) for name in _PACKAGES},
            "models": [hide_home(m) for m in self._config.getoption("nnsight_model") or ()],
            "tests": [_without_details(test, detailed) for test in self._tests.values()],
            "structure": structural_changes({"tests": self._tests.values()}),
            "errors": self._errors,
            "not_run": control.not_run if control is not None else [],
        }

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print what drifted, where and why, and the names of the report files."""
        if self._has_results():
            self._print_results(terminalreporter)
        for path in self._paths:
            terminalreporter.write_line(f"nnsight report: {path.name}")

    def _print_results(self, terminalreporter: Any) -> None:
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

    def _has_results(self) -> bool:
        """Return whether any test compared a golden, has a note, hung or crashed."""
        return any(
            test["goldens"] or test["notes"] or test["outcome"] in ("hung", "crashed")
            for test in self._tests.values()
        )


def _without_details(test: dict[str, Any], detailed: bool) -> dict[str, Any]:
    """Return a test for the report, with its details moved into its goldens if ``detailed``."""
    entry = {name: value for name, value in test.items() if name != "details"}
    if detailed and len(test["details"]) == len(test["goldens"]):
        pairs = zip(test["goldens"], test["details"], strict=True)
        entry["goldens"] = [{**golden, "detail": json.loads(text)} for golden, text in pairs]
    return entry


def _outcome(report: pytest.TestReport) -> tuple[str, str]:
    """Return the outcome of a phase, and the line that explains it."""
    if not report.failed:
        return ("skipped", _first_line(report)) if report.skipped else ("passed", "")
    line = _first_line(report)
    crash = _CRASH.match(line)
    if crash is not None:
        return ("hung" if crash[1] == "HUNG" else "crashed"), line
    return ("failed" if report.when == "call" else "error"), line


def _first_line(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the line of a failure that pytest shows in its short summary."""
    longrepr: Any = report.longrepr
    if isinstance(longrepr, tuple):
        return visible(str(longrepr[2]))
    message = getattr(getattr(longrepr, "reprcrash", None), "message", None)
    # `longreprtext` of a plain text starts with the name of the worker
    text = longrepr if isinstance(longrepr, str) else report.longreprtext
    lines = (message or text or "").strip().splitlines() or [""]
    raised = [line for line in lines if line.startswith("E  ")]
    first = raised[-1][1:].strip() if raised else lines[0]  # an import error: its last line
    if first.endswith("Traceback (most recent call last):"):  # errors of nnsight before 0.8
        first = next((x for x in reversed(lines) if _RAISED.match(x)), first)
    for prefix in ("AssertionError: ", "Failed: ", "assert "):
        first = first.removeprefix(prefix)
    return visible(hide_home(first))
