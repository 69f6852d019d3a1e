"""The plugin object of the process that hands out tests: what workers died of, and when to stop."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_nnsight.isolation.deaths import Death
from pytest_nnsight.isolation.post import read_post
from pytest_nnsight.isolation.watch import POST, REPLACED

_MOST_DEATHS = 9  # of each worker, one after another, with no test that ended by itself between
_DEATHS_OF_LOADING = 3  # as many as one counts that died while it loaded a model, which takes long
_MOST_OUTPUT = 20_000  # characters
_STREAMS = {"stdout": "out", "stderr": "err"}
_CUT_SHORT = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)  # xdist kills workers
_WAIT = 10.0  # seconds for a process to be gone whose pipe is closed


class Control:
    """Turns a worker's death into the report of a test, and stops where nothing goes on.

    ``is_own`` tells that the user asked for no workers, and expects pytest's own exit codes.
    """

    def __init__(self, config: pytest.Config, is_own: bool) -> None:
        self._config, self._is_own = config, is_own
        self._folder = Path(tempfile.mkdtemp(prefix="pytest-nnsight-"))
        self._collected: dict[str, None] = {}
        self._reported: set[str] = set()
        self._deaths_in_a_row = 0
        self._stopped = ""
        self._nodes: dict[str, Any] = {}
        self._bad_ends: list[str] = []
        self._workers = len(config.option.tx)
        if config.option.maxworkerrestart is None:
            config.option.maxworkerrestart = "1000000"  # xdist's own limit drops tests unnamed

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where to say where it is."""
        self._nodes[node.gateway.id] = node
        node.workerinput[POST] = str(self._folder / node.gateway.id)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """Remember which tests there are."""
        self._collected = dict.fromkeys(ids)

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember which tests were reported; one that ended by itself is progress."""
        if report.when == "call" or report.failed or report.skipped:
            self._reported.add(report.nodeid)
        if report.when == "teardown":
            self._deaths_in_a_row = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: Any, sched: Any) -> None:
        """Report a test as what happened to its worker; it is not the first that is to blame."""
        death = self._death(report.node)
        if death.exit_code == REPLACED:
            report.outcome, report.when, report.longrepr = "passed", "setup", None
            sched.mark_test_pending(crashitem)
            return
        phases = {"setup": "setup", "loading": "setup", "teardown": "teardown"}
        report.when = phases.get(death.last.phase, "call")
        report.longrepr = "\n".join(death.lines)
        file, _, domain = crashitem.partition("::")
        report.location = (file, None, domain.replace("::", "."))
        report.sections += [
            (f"Captured {name}", text) for name, text in death.output.items() if text
        ]

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Count a death; after too many with nothing between, let no other worker start."""
        if not error:
            return
        del self._nodes[node.gateway.id]
        death = self._death(node)
        if death.exit_code == REPLACED:
            return
        self._deaths_in_a_row += _DEATHS_OF_LOADING if death.last.phase == "loading" else 1
        in_test = bool(self._collected)
        if self._deaths_in_a_row < (_MOST_DEATHS * self._workers if in_test else 1):
            return
        self._stopped = death.title
        session: Any = self._config.pluginmanager.getplugin("dsession")
        session._max_worker_restart = 0  # xdist has no other way to be told, as of 3.8
        if not in_test:
            report = pytest.CollectReport(
                death.last.name or "collection", "failed", "\n".join(death.lines), None
            )
            self._config.hook.pytest_collectreport(report=report)

    def _death(self, node: Any) -> Death:
        """Read what a dead worker left."""
        process, base = _process(node), self._folder / node.gateway.id
        code: int | None = None
        if process is not None:
            try:
                code = process.wait(_WAIT)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait(_WAIT)
        output = {name: self._read(node, ending) for name, ending in _STREAMS.items()}
        return Death(code, read_post(base), self._read(node, "stack"), output)

    def _read(self, node: Any, ending: str) -> str:
        try:
            text = Path(f"{self._folder / node.gateway.id}.{ending}").read_text(errors="replace")
        except OSError:
            return ""
        return text[-_MOST_OUTPUT:]

    @property
    def left(self) -> list[str]:
        """The tests that did not run."""
        return [test for test in self._collected if test not in self._reported]

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """End with exit code 1 where workers kept dying, or one did not end as it should."""
        result = yield
        was_cut_short = session.exitstatus in _CUT_SHORT
        for node in self._nodes.values() if not was_cut_short else ():
            process = _process(node)
            if process is not None and process.poll() not in (None, 0):
                title, *stack = self._death(node).lines
                self._bad_ends += [f"worker {node.gateway.id} {title}", *stack]
        is_stop = session.exitstatus == pytest.ExitCode.INTERRUPTED and session.testsfailed
        if is_stop and self._is_own and self._config.option.maxfail:  # of -x: pytest's own is 1
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._stopped or self._bad_ends:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name the tests that did not run, since workers kept dying."""
        lines = list(self._bad_ends)
        if self._stopped:
            lines.append(f"stopped, since workers kept dying: {self._stopped}")
            lines += [f"{len(self.left)} tests did not run:"] if self.left else []
            lines += [f"  {test}" for test in self.left]
        if lines:
            terminalreporter.section("nnsight: workers")
        for line in lines:
            terminalreporter.write_line(line)

    @pytest.hookimpl
    def pytest_unconfigure(self) -> None:
        """Remove what workers wrote."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _process(node: Any) -> subprocess.Popen[bytes] | None:
    """Return a worker's process, which execnet keeps to itself."""
    process: subprocess.Popen[bytes] | None = getattr(node.gateway._io, "popen", None)
    return process
