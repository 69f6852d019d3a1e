"""The plugin object of the process that hands out tests: what workers died of, and when to stop."""

from __future__ import annotations

import math
import shutil
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import pytest

from pytest_nnsight.isolation.crash import WorkerCrash
from pytest_nnsight.isolation.heartbeat import Heartbeat, WorkerState, read_heartbeat
from pytest_nnsight.isolation.supervisor import Supervisor, process_of
from pytest_nnsight.isolation.watchdog import EXIT_CODE, POST

_MOST_DEATHS = 9  # of each worker, one after another, with no test that ended by itself between
_DEATHS_OF_LOADING = 3  # as many as one counts that died while it loaded a model, which takes long
_MOST_OUTPUT = 20_000  # characters
_STREAMS = {"stdout": "out", "stderr": "err"}
_CUT_SHORT = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
_WAIT = 10.0  # seconds for a process to be gone whose pipe is closed, or which is in a test still


class Controller:
    """Turns a worker's death into the report of a test, and stops where nothing goes on.

    ``is_own`` tells that the user asked for no workers, and expects pytest's own exit codes.
    """

    def __init__(self, config: pytest.Config, is_own: bool, load_timeout: float) -> None:
        self._config, self._is_own, self._load_timeout = config, is_own, load_timeout
        self._supervisor = Supervisor()
        self._folder: Path | None = None
        self._collected: dict[str, None] = {}
        self._reported: set[str] = set()
        self._deaths_in_a_row = 0
        self._stopped = ""
        self._nodes: dict[str, Any] = {}
        self._exit_code: int | None = None
        self._deaths: dict[str, WorkerCrash] = {}
        self._notes: list[str] = []
        self._has_bad_end = False
        self._workers = len(config.option.tx)
        if config.option.maxworkerrestart is None:
            config.option.maxworkerrestart = "1000000"  # xdist's own limit drops tests unnamed

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where to say where it is, and see to it that it starts."""
        self._nodes[node.gateway.id] = node
        try:
            path = self._path(node)
            Heartbeat(path).enter(WorkerState("start", "", self._load_timeout))
        except OSError as error:
            message = (
                f"no room for the state of a worker in {self._folder} ({error.strerror}): "
                "make room there, or set TMPDIR to another folder"
            )
            pytest.exit(message, pytest.ExitCode.USAGE_ERROR)
        node.workerinput[POST] = str(path)
        self._supervisor.add(node, path)

    def _path(self, node: Any) -> Path:
        """Return the file of a worker's state, in the folder that pytest clears itself."""
        if self._folder is None:
            factory: Any = self._config._tmp_path_factory  # type: ignore[attr-defined]
            self._folder = factory.mktemp("nnsight", numbered=False)
        return self._folder / str(node.gateway.id)

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
    def pytest_handlecrashitem(self, crashitem: str, report: Any) -> None:
        """Report a test as what happened to its worker; it is not the first that is to blame."""
        death = self._death(report.node)
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
            self._exit_code = node.workeroutput.get(EXIT_CODE, self._exit_code)
            return
        del self._nodes[node.gateway.id]
        death = self._death(node)
        session: Any = self._config.pluginmanager.getplugin("dsession")
        if death.last.phase == "exit" and self._is_done:
            session._max_worker_restart = 0  # xdist has no other way to be told, as of 3.8
            self._note_bad_end(node)
            return
        self._deaths_in_a_row += _DEATHS_OF_LOADING if death.last.phase == "loading" else 1
        in_test = bool(self._collected)
        if self._deaths_in_a_row < (_MOST_DEATHS * self._workers if in_test else 1):
            return
        self._stopped = death.title
        session._max_worker_restart = 0
        if not in_test:
            report = pytest.CollectReport(
                death.last.name or "collection", "failed", "\n".join(death.lines), None
            )
            self._config.hook.pytest_collectreport(report=report)

    def _death(self, node: Any) -> WorkerCrash:
        """Read once what a dead worker left."""
        process, name = process_of(node.gateway), node.gateway.id
        if name in self._deaths:
            return self._deaths[name]
        code: int | None = None
        is_lost = False
        with suppress(TimeoutExpired):  # of one in uninterruptible sleep
            try:
                code = process and process.wait(_WAIT)
            except TimeoutExpired:
                is_lost = True
                process.kill()
                code = process.wait(_WAIT)
        last = self._supervisor.hung.get(name) or read_heartbeat(self._path(node))
        is_lost |= code == 0 and not self._is_done and last.phase in ("idle", "exit")
        output = {stream: self._read(node, ending) for stream, ending in _STREAMS.items()}
        stack, is_hung = self._read(node, "stack"), name in self._supervisor.hung
        self._deaths[name] = WorkerCrash(code, last, stack, output, is_hung, is_lost)
        return self._deaths[name]

    def _note_bad_end(self, node: Any) -> None:
        title, *stack = self._death(node).lines
        self._notes += [f"worker {node.gateway.id} {title}", *stack]
        self._has_bad_end = True

    def _read(self, node: Any, ending: str) -> str:
        try:
            text = Path(f"{self._path(node)}.{ending}").read_text(errors="replace")
        except OSError:
            return ""
        return text[-_MOST_OUTPUT:]

    @property
    def left(self) -> list[str]:
        """The tests that did not run."""
        return [test for test in self._collected if test not in self._reported]

    @property
    def _is_done(self) -> bool:
        return bool(self._collected) and not self.left

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """End with exit code 1 where workers kept dying, or one did not end as it should."""
        was_cut_short = session.exitstatus in _CUT_SHORT
        dsession: Any = self._config.pluginmanager.getplugin("dsession")
        group = getattr(getattr(dsession, "nodemanager", None), "group", ())
        self._notes += self._supervisor.end_all(group, _WAIT if was_cut_short else math.inf)
        result = yield
        for node in self._nodes.values() if not was_cut_short else ():
            process = process_of(node.gateway)
            if process is not None and process.poll() != 0:
                self._note_bad_end(node)
        is_stop = session.exitstatus == pytest.ExitCode.INTERRUPTED and session.testsfailed
        if is_stop and self._is_own and self._config.option.maxfail:  # of -x: pytest's own is 1
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._exit_code is not None:
            session.exitstatus = self._exit_code
        if self._stopped or self._has_bad_end:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Name the tests that did not run, since workers kept dying."""
        lines = list(self._notes)
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
        self._supervisor.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
