"""The plugin object of the process that runs tests: its limits, phase by phase."""

from __future__ import annotations

import atexit
import faulthandler
import gc
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_nnsight.isolation import limits
from pytest_nnsight.isolation.heartbeat import Heartbeat, WorkerState
from pytest_nnsight.isolation.interrupts import Interrupts, RaisedInterrupt
from pytest_nnsight.isolation.limits import DUMP_SIGNAL, Limits, terminal
from pytest_nnsight.isolation.messages import send_anything
from pytest_nnsight.isolation.mode import is_worker
from pytest_nnsight.settings import Settings

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
POST = "nnsight_post"
EXIT_CODE = "nnsight_exit_code"


class Watch:
    """Keeps what runs in this process within its limits.

    In a worker of ours it says where it is in a file, and stacks go to a file beside it; elsewhere
    they go to the terminal. ``seconds`` says what each phase of a test may take.
    """

    def __init__(
        self, config: pytest.Config, settings: Settings, seconds: Callable[[pytest.Item], float]
    ) -> None:
        self._settings, self._seconds = settings, seconds
        self._config, self._item, self._module = config, "", ""
        self._session: pytest.Session | None = None
        self._exit: dict[str, Any] = {}
        self._allowed = settings.timeout
        self._interrupts = Interrupts(is_worker(config))
        self._base: str | None = getattr(config, "workerinput", {}).get(POST)
        self._post: Heartbeat | None = None
        if self._base is None:
            self._stacks = terminal()
        else:
            self._post = Heartbeat(Path(self._base))
            self._stacks = os.open(f"{self._base}.stack", _OPEN | os.O_APPEND, 0o600)
            if DUMP_SIGNAL is not None:
                faulthandler.register(DUMP_SIGNAL, file=self._stacks)
            send_anything(config)
        ends = None if is_worker(config) else self._end
        is_supervised = self._post is not None
        self._limits = Limits(self._stacks, self._enter, lambda: self._module, ends, is_supervised)

    def reach(self, module: str) -> None:
        """Note the module that was captured last."""
        self._module = module
        if self._post is not None:
            self._post.reach(module)

    def loading(self, model: str) -> AbstractContextManager[None]:
        """Give the loading of a model its own time; that of the test stands still."""
        return self._limits.within("loading", model, self._settings.load_timeout)

    @contextmanager
    def _within(self, phase: str, test: str) -> Iterator[None]:
        """Let a phase of a test run in its time, and not end this process."""
        with self._limits.within(phase, test, self._allowed), self._interrupts.as_failures():
            yield

    def _end(self, title: str) -> None:
        """Report what ran, and what did not end, from another thread than the one that hangs."""
        hook, session = self._config.hook, self._session
        if session is None:
            return
        capture = self._config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            capture.suspend_global_capture(in_=True)
        if self._item:
            file, _, domain = self._item.partition("::")
            place = (file, None, domain)
            report = pytest.TestReport(self._item, place, {}, "failed", title, "call")
            hook.pytest_runtest_logreport(report=report)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        hook.pytest_sessionfinish(session=session, exitstatus=session.exitstatus)
        sys.stdout.flush()

    def _enter(self, now: WorkerState) -> None:
        self._module = ""
        self._item = now.name if now.phase in ("setup", "call", "teardown") else ""
        if self._post is not None:
            self._post.enter(now)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Let a worker's stacks and captured output go to files that outlive it.

        pytest has let faulthandler write to stderr by now, and captures in files without a name.
        """
        self._session = session
        if self._base is None:
            return
        faulthandler.enable(file=self._stacks)
        capture = session.config.pluginmanager.getplugin("capturemanager")
        streams = getattr(capture, "_global_capturing", None)  # not public, as of pytest 9
        for name in ("out", "err"):
            with suppress(AttributeError, OSError, ValueError):  # of those captured in memory
                captured = getattr(streams, name).tmpfile.fileno()
                named = os.open(f"{self._base}.{name}", _OPEN, 0o600)
                os.dup2(named, captured)
                os.close(named)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, object, object]:
        """Collect each file within the time that loading has."""
        with self._limits.within("collection", collector.nodeid, self._settings.load_timeout):
            try:
                with self._interrupts.as_failures():
                    return (yield)
            except RaisedInterrupt as error:
                told = collector.repr_failure(pytest.ExceptionInfo.from_exception(error))
                return pytest.CollectReport(collector.nodeid, "failed", told, [])

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Let the end of a fixture fail where it would end this process."""
        try:
            return (yield)
        finally:
            self._interrupts.wrap(fixturedef._finalizers)  # not public, as of pytest 9

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Set up within the test's time.

        A marker that cannot be read fails the test after its setup: pytest's own plugins take down
        in its end what they have set up.
        """
        wrong: BaseException | None = None
        try:
            self._allowed = self._seconds(item)
        except pytest.fail.Exception as error:
            self._allowed, wrong = self._settings.timeout, error
        with self._within("setup", item.nodeid):
            result = yield
        if wrong is not None:
            raise wrong
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run within the test's time."""
        with self._within("call", item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Tear down within the test's time."""
        with self._within("teardown", item.nodeid):
            return (yield)

    @pytest.hookimpl
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Tell the controller that a test called `pytest.exit`, and with which exit code."""
        error = excinfo.value
        if self._post is not None and isinstance(error, pytest.exit.Exception):
            code = 2 if error.returncode is None else int(error.returncode)
            self._exit = {EXIT_CODE: code, "shouldstop": f"Exit: {error.msg}", "exitstatus": 1}

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """Limit what ends the session in a worker.

        xdist takes a worker that stops with tests left for one that crashed, or fails itself (as of
        3.8), unless the worker says that the session should stop.
        """
        if self._post is None:
            return (yield)
        seconds = self._settings.timeout
        self._post.enter(WorkerState("exit", "", seconds and max(seconds, limits.EXIT_SECONDS)))
        result = yield
        output = self._config.workeroutput  # type: ignore[attr-defined]
        _forget_unwritten(output)
        output.update(self._exit)
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Let go of the terminal; a worker ends when the controller says so."""
        if self._post is None:
            os.close(self._stacks)
            return
        # pytest collects twice at the end of a session; what is alive now lives until exit.
        gc.freeze()
        self._post.enter(WorkerState("exit"))
        # Unlike atexit it comes before threads are waited for; concurrent.futures needs it as well.
        threading._register_atexit(atexit.register, _end)  # type: ignore[attr-defined]


def _end() -> None:
    """Run what was registered for the end of this process, and end it.

    To clear a model and its libraries away takes Python a second more, which nobody sees but the
    one who waits; what they do at that is not always quick, or in order.
    """
    atexit.unregister(_end)
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _forget_unwritten(output: dict[str, Any]) -> None:
    """Take goldens that could not be written from those whose locks syrupy removes.

    Where a part of the path is no folder, the controller would end with a traceback (syrupy 7.0).
    """
    written = output.get("syrupy_write_sidecars", ())
    output["syrupy_write_sidecars"] = [path for path in written if Path(path).parent.is_dir()]
