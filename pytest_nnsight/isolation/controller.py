"""The plugin of the controller: it reports crashed workers, and stops if they keep crashing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_nnsight.isolation.crash import WorkerCrash
from pytest_nnsight.isolation.heartbeat import Heartbeat, WorkerState, read_heartbeat
from pytest_nnsight.isolation.supervisor import Supervisor, end_process, process_of
from pytest_nnsight.isolation.watchdog import EXIT_CODE, HEARTBEAT

_MOST_CRASHES = 9  # per worker, in a row, while no test ends normally
_LOADING_CRASH = 3  # counts as so many, since loading a model takes long
_MOST_OUTPUT = 20_000  # characters
_CUT_SHORT = (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR)
_WAIT = 10.0  # seconds for a process to end that closed its pipe, or that still runs a test


class Controller:
    """Report a worker's crash as the result of its test, and stop when workers keep crashing.

    ``is_automatic`` tells that the user asked for no workers and expects pytest's own exit codes.
    """

    def __init__(self, config: pytest.Config, is_automatic: bool, load_timeout: float) -> None:
        self._config, self._is_automatic, self._load_timeout = config, is_automatic, load_timeout
        self._supervisor = Supervisor()
        self._folder: Path | None = None
        self._collected: dict[str, None] = {}
        self._reported: set[str] = set()
        self._crashes_in_a_row = 0
        self._stop_reason = ""
        self._nodes: dict[str, Any] = {}
        self._exit_code: int | None = None
        self._crashes: dict[str, WorkerCrash] = {}
        self._notes: list[str] = []
        self._has_bad_end = False
        self._workers = len(config.option.tx)
        if config.option.maxworkerrestart is None:
            config.option.maxworkerrestart = "1000000"  # xdist's limit drops tests without a word

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give a worker the file for its state, and supervise it from its start."""
        self._nodes[node.gateway.id] = node
        try:
            path = self._path(node)
            Heartbeat(path).write(WorkerState("start", "", self._load_timeout))
        except OSError as error:
            message = (
                f"no room for the state of a worker in {self._folder} ({error.strerror}): "
                "make room there, or set TMPDIR to another folder"
            )
            pytest.exit(message, pytest.ExitCode.USAGE_ERROR)
        node.workerinput[HEARTBEAT] = str(path)
        self._supervisor.add(node, path)

    def _path(self, node: Any) -> Path:
        """Return the file of a worker's state, in a temporary folder that pytest removes."""
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
        """Remember which tests were reported; a normal end resets the count of crashes."""
        if report.when == "call" or report.failed or report.skipped:
            self._reported.add(report.nodeid)
        if report.when == "teardown":
            self._crashes_in_a_row = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: Any) -> None:
        """Put into the report of a test what happened to its worker."""
        crash = self._crash(report.node)
        phases = {"setup": "setup", "loading": "setup", "teardown": "teardown"}
        report.when = phases.get(crash.last.phase, "call")
        report.longrepr = "\n".join(crash.lines)
        file, _, domain = crashitem.partition("::")
        report.location = (file, None, domain.replace("::", "."))
        output = crash.output.items()
        report.sections += [(f"Captured {name}", text) for name, text in output if text]

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Count a crash; after too many in a row, start no more workers."""
        if not error:
            self._exit_code = node.workeroutput.get(EXIT_CODE, self._exit_code)
            return
        del self._nodes[node.gateway.id]
        crash = self._crash(node)
        session: Any = self._config.pluginmanager.getplugin("dsession")
        if crash.last.phase == "exit" and self._is_done:
            session._max_worker_restart = 0  # as of 3.8, xdist has no public way
            self._note_bad_end(node)
            return
        self._crashes_in_a_row += _LOADING_CRASH if crash.last.phase == "loading" else 1
        if self._collected and self._crashes_in_a_row < _MOST_CRASHES * self._workers:
            return
        self._stop_reason = crash.title
        session._max_worker_restart = 0
        if not self._collected:
            name, text = crash.last.name or "collection", "\n".join(crash.lines)
            report = pytest.CollectReport(name, "failed", text, None)
            self._config.hook.pytest_collectreport(report=report)

    def _crash(self, node: Any) -> WorkerCrash:
        """Return how a worker ended; read once from the files that it left."""
        name, hung = node.gateway.id, self._supervisor.hung
        if name not in self._crashes:
            process = process_of(node.gateway)
            is_lost, code = end_process(process, _WAIT), process.returncode
            last = hung.get(name) or read_heartbeat(self._path(node))
            is_lost |= code == 0 and not self._is_done and last.phase in ("idle", "exit")
            output = {"stdout": self._read(node, "out"), "stderr": self._read(node, "err")}
            stack = self._read(node, "stack")
            self._crashes[name] = WorkerCrash(code, last, stack, output, name in hung, is_lost)
        return self._crashes[name]

    def _note_bad_end(self, node: Any) -> None:
        title, *stack = self._crash(node).lines
        self._notes += [f"worker {node.gateway.id} {title}", *stack]
        self._has_bad_end = True

    def _read(self, node: Any, ending: str) -> str:
        with suppress(OSError):
            return Path(f"{self._path(node)}.{ending}").read_text(errors="replace")[-_MOST_OUTPUT:]
        return ""

    @property
    def not_run(self) -> list[str]:
        """The tests that did not run."""
        return [test for test in self._collected if test not in self._reported]

    @property
    def _is_done(self) -> bool:
        return bool(self._collected) and not self.not_run

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        """End with exit code 1 if workers kept crashing, or if one crashed at its end."""
        was_cut_short = session.exitstatus in _CUT_SHORT
        dsession: Any = self._config.pluginmanager.getplugin("dsession")
        group = getattr(getattr(dsession, "nodemanager", None), "group", ())
        self._notes += self._supervisor.end_all(group, _WAIT if was_cut_short else math.inf)
        result = yield
        for node in self._nodes.values() if not was_cut_short else ():
            if process_of(node.gateway).poll() != 0:
                self._note_bad_end(node)
        is_stopped = session.exitstatus == pytest.ExitCode.INTERRUPTED and session.testsfailed
        if is_stopped and self._is_automatic and self._config.option.maxfail:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED  # as pytest ends after -x
        if self._exit_code is not None:
            session.exitstatus = self._exit_code
        if self._stop_reason or self._has_bad_end:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Show how workers ended, and name the tests that did not run."""
        lines, not_run = list(self._notes), self.not_run
        if self._stop_reason:
            lines.append(f"stopped, since workers kept dying: {self._stop_reason}")
            lines += [f"{len(not_run)} tests did not run:"] if not_run else []
            lines += [f"  {test}" for test in not_run]
        if lines:
            terminalreporter.section("nnsight: workers")
            terminalreporter.write_line("\n".join(lines))

    @pytest.hookimpl
    def pytest_unconfigure(self) -> None:
        """Remove the files that workers wrote."""
        self._supervisor.stopped.set()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
