"""The plugin of the process that runs tests: it limits the time of each phase."""

from __future__ import annotations

import atexit
import faulthandler
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pytest_nnsight.errors import text_of
from pytest_nnsight.isolation import limits
from pytest_nnsight.isolation.heartbeat import Heartbeat, WorkerState
from pytest_nnsight.isolation.mode import is_worker
from pytest_nnsight.settings import Settings

_OPEN = os.O_RDWR | os.O_CREAT
HEARTBEAT = "nnsight_heartbeat"
EXIT_CODE = "nnsight_exit_code"


class RaisedInterrupt(Exception):  # noqa: N818  # stands for an interrupt, which is not an error
    """Report a ``KeyboardInterrupt`` or ``SystemExit`` that code raised."""

    __module__ = "builtins"  # reports then show only the name


class Watchdog:
    """Limit the time of everything that runs in this process.

    A worker under a `Controller` writes its state to a file, and stacks to a file next to it.
    Another process writes stacks to the descriptor ``terminal``. ``loading(model)`` limits a block
    that loads a model, and stops the limit of the test meanwhile.
    """

    def __init__(
        self,
        config: pytest.Config,
        settings: Settings,
        timeout_of: Callable[[pytest.Item], float],
        terminal: int,
    ) -> None:
        self._config, self._settings, self._timeout_of = config, settings, timeout_of
        self._exit: dict[str, Any] = {}
        self._timeout = settings.timeout
        # A signal that a user or xdist sent is not turned into a failure.
        is_main = threading.current_thread() is threading.main_thread()
        self._converts_interrupts = is_worker(config) and is_main
        if self._converts_interrupts:
            signal.signal(signal.SIGINT, self._receive_interrupt)
        self._base: str | None = getattr(config, "workerinput", {}).get(HEARTBEAT)
        self._heartbeat = Heartbeat(Path(self._base)) if self._base is not None else None
        self._stacks = terminal
        if self._base is not None:
            self._stacks = os.open(f"{self._base}.stack", _OPEN | os.O_APPEND, 0o600)
            faulthandler.register(limits.DUMP_SIGNAL, file=self._stacks)
            _allow_any_value(config)
        self._limits = limits.Limits(self._stacks, self._heartbeat)
        self.record_module = self._limits.record_module
        self.loading = partial(self._limits.within, "loading", seconds=settings.load_timeout)

    def _receive_interrupt(self, number: int, frame: FrameType | None) -> None:
        self._converts_interrupts = False
        signal.default_int_handler(number, frame)

    @contextmanager
    def _interrupts_as_failures(self) -> Iterator[None]:
        """Raise `RaisedInterrupt` instead of an interrupt that code raised."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            if not self._converts_interrupts:
                raise
            text = ": ".join(filter(None, (type(error).__name__, text_of(error))))
            raise RaisedInterrupt(text).with_traceback(error.__traceback__) from None

    @contextmanager
    def _within(self, phase: str, test: str) -> Iterator[None]:
        """Limit a phase of a test, and turn its interrupts into failures."""
        with self._limits.within(phase, test, self._timeout), self._interrupts_as_failures():
            yield

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Let a worker write stacks and captured output to files that the controller can read.

        By now pytest has directed faulthandler to stderr, and captures into unnamed files.
        """
        if self._base is None:
            return
        faulthandler.enable(file=self._stacks)
        capture = self._config.pluginmanager.getplugin("capturemanager")
        streams = getattr(capture, "_global_capturing", None)  # not public, as of pytest 9
        for name in ("out", "err"):
            with suppress(AttributeError, OSError, ValueError):  # captured in memory
                captured = getattr(streams, name).tmpfile.fileno()
                named = os.open(f"{self._base}.{name}", _OPEN, 0o600)
                os.dup2(named, captured)
                os.close(named)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, object, object]:
        """Limit the collection of each file, by the time limit of loading."""
        with self._limits.within("collection", collector.nodeid, self._settings.load_timeout):
            try:
                with self._interrupts_as_failures():
                    return (yield)
            except RaisedInterrupt as error:
                text = collector.repr_failure(pytest.ExceptionInfo.from_exception(error))
                return pytest.CollectReport(collector.nodeid, "failed", text, [])

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Remember which tests will run."""
        self._limits.pending = {item.nodeid: None for item in session.items}

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Turn interrupts in the teardown of a fixture into failures.

        Otherwise pytest would not run the other finalizers, and the next test fails (pytest 9).
        """
        try:
            return (yield)
        finally:
            finalizers = fixturedef._finalizers  # not public, as of pytest 9
            finalizers[:] = [self._interrupts_as_failures()(each) for each in finalizers]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Limit the setup of a test."""
        self._timeout = self._timeout_of(item)
        self._limits.pending.pop(item.nodeid, None)
        with self._within("setup", item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Limit the call of a test."""
        with self._within("call", item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Limit the teardown of a test."""
        with self._within("teardown", item.nodeid):
            return (yield)

    @pytest.hookimpl
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Tell the controller that a test called `pytest.exit`, and with which exit code."""
        error = excinfo.value
        if self._heartbeat is not None and isinstance(error, pytest.exit.Exception):
            code = 2 if error.returncode is None else int(error.returncode)
            self._exit = {EXIT_CODE: code, "shouldstop": f"Exit: {error.msg}", "exitstatus": 1}

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """Limit the end of the session in a worker.

        A worker that stops before its last test must tell xdist, which would count it as crashed or
        fail itself (as of 3.8).
        """
        if self._heartbeat is None:
            return (yield)
        seconds = self._settings.timeout and max(self._settings.timeout, limits.EXIT_SECONDS)
        self._heartbeat.write(WorkerState("exit", "", seconds))
        result = yield
        output = self._config.workeroutput  # type: ignore[attr-defined]
        # The controller removes syrupy's locks, and fails below a path that is no folder (7.0).
        written = output.get("syrupy_write_sidecars", ())
        output["syrupy_write_sidecars"] = [path for path in written if Path(path).parent.is_dir()]
        output.update(self._exit)
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Prepare the end of a worker."""
        if self._heartbeat is None:
            return
        # pytest collects garbage twice at its end; what is alive now stays alive until exit.
        gc.freeze()
        self._heartbeat.write(WorkerState("exit"))
        # Before Python joins threads it registers `_exit_now` last, which is then the first to run.
        threading._register_atexit(atexit.register, _exit_now)  # type: ignore[attr-defined]


def _exit_now() -> None:
    """Run the functions registered with `atexit`, and end the process.

    Python would take another second to destroy a model and its libraries, and may hang there.
    """
    atexit.unregister(_exit_now)
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _allow_any_value(config: pytest.Config) -> None:
    """Let a worker send any text and object, which would end the session otherwise (xdist 3.8)."""
    plugins = config.pluginmanager.get_plugins()
    interactor: Any = next(p for p in plugins if type(p).__name__ == "WorkerInteractor")
    send = interactor.sendevent
    interactor.sendevent = lambda name, **values: send(name, **_sendable(values))


def _sendable(value: Any) -> Any:
    """Return a value with surrogates escaped, and with text for what execnet cannot send."""
    if value is None or type(value) in (bool, int, float, complex, bytes):
        return value
    if isinstance(value, dict):
        return {_sendable(key): _sendable(item) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(_sendable, value))
    return text_of(value).encode(errors="backslashreplace").decode()
