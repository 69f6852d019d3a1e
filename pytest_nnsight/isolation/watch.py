"""The plugin object of the process that runs tests: its limits, phase by phase."""

from __future__ import annotations

import atexit
import faulthandler
import gc
import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from pytest_nnsight.isolation.interrupts import Interrupts, RaisedInterrupt
from pytest_nnsight.isolation.limits import Limits, terminal
from pytest_nnsight.isolation.mode import is_worker
from pytest_nnsight.isolation.post import Post, Whereabouts
from pytest_nnsight.settings import Settings

REPLACED = 86  # the exit code of a worker that ends for another to go on in its place
_EXIT_SECONDS = 8.0  # after 10 xdist kills a worker that does not end, without a stack
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
POST = "nnsight_post"


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
        self._allowed = settings.timeout
        self._threads: set[int] = set()  # threading takes one whose join was broken off for ended
        self._interrupts = Interrupts(is_worker(config))
        self._base = posted_at(config)
        self._post: Post | None = None
        if self._base is None:
            self._stacks = terminal()
        else:
            self._post = Post(self._base)
            self._stacks = os.open(f"{self._base}.stack", _OPEN | os.O_APPEND, 0o600)
        ends = None if is_worker(config) else self._end
        self._limits = Limits(self._stacks, self._enter, lambda: self._module, ends)

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
            report = pytest.TestReport(
                self._item, (file, None, domain), {}, "failed", title, "call"
            )
            hook.pytest_runtest_logreport(report=report)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        hook.pytest_sessionfinish(session=session, exitstatus=session.exitstatus)
        sys.stdout.flush()

    def _enter(self, now: Whereabouts) -> None:
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
            file = getattr(getattr(streams, name, None), "tmpfile", None)
            if file is not None and _has_descriptor(file):
                named = os.open(f"{self._base}.{name}", _OPEN, 0o600)
                os.dup2(named, file.fileno())
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
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """End a worker in which a thread of a test that hung lives on, before the next test.

        nnsight before 0.8 runs a trace's body in a thread; it would go on with the shared model.
        """
        if self._base is not None and self._has_threads():
            os._exit(REPLACED)
        return (yield)

    def _has_threads(self) -> bool:
        return not self._threads.isdisjoint(sys._current_frames())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Set up within the test's time.

        A marker that cannot be read fails the test after its setup: pytest's own plugins take down
        in its end what they have set up.
        """
        wrong: BaseException | None = None
        self._allowed = self._settings.timeout
        try:
            self._allowed = self._seconds(item)
        except pytest.fail.Exception as error:
            wrong = error
        with (
            self._limits.within("setup", item.nodeid, self._allowed),
            self._interrupts.as_failures(),
        ):
            result = yield
        if wrong is not None:
            raise wrong
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run within the test's time, and note the threads that it leaves when that was over."""
        before = set(sys._current_frames())
        try:
            with (
                self._limits.within("call", item.nodeid, self._allowed),
                self._interrupts.as_failures(),
            ):
                return (yield)
        except pytest.fail.Exception as error:
            if str(error).startswith("HUNG"):
                self._threads |= set(sys._current_frames()) - before
            raise

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Tear down within the test's time."""
        with (
            self._limits.within("teardown", item.nodeid, self._allowed),
            self._interrupts.as_failures(),
        ):
            return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        """Give the end of a worker a limit that nothing takes off."""
        result = yield
        if self._post is not None:
            _forget_unwritten(self._config.workeroutput)  # type: ignore[attr-defined]
            self._post.enter(Whereabouts("exit", "", _EXIT_SECONDS))
            self._limit_exit()
        return result

    def _limit_exit(self) -> None:
        faulthandler.dump_traceback_later(_EXIT_SECONDS, exit=True, file=self._stacks)

    def _leave(self) -> None:
        """Let this process end once all that was registered for its end has run."""
        self._limit_exit()
        atexit.register(_end)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Let go of the terminal; a worker's files are its until it is gone.

        All has been said by now: a thread of a test that hung need not hold up the worker's end.
        For that a worker waits until the others are done, so its limit begins anew with it.
        """
        if self._base is None:
            os.close(self._stacks)
            return
        # pytest collects twice at the end of a session; what is alive now lives until exit.
        gc.freeze()
        if self._has_threads():
            os._exit(0)
        faulthandler.cancel_dump_traceback_later()
        # Unlike atexit it comes before threads are waited for; concurrent.futures needs it as well.
        threading._register_atexit(self._leave)  # type: ignore[attr-defined]


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


def posted_at(config: pytest.Config) -> Path | None:
    """Return the file where this worker is to say where it is; ``None`` elsewhere."""
    path = getattr(config, "workerinput", {}).get(POST)
    return None if path is None else Path(path)


def _has_descriptor(file: IO[str]) -> bool:
    try:
        return file.fileno() >= 0
    except (OSError, ValueError):  # captured in memory: --capture=sys
        return False


def _forget_unwritten(output: dict[str, Any]) -> None:
    """Take goldens that could not be written from those whose locks syrupy removes.

    Where a part of the path is no folder, the controller would end with a traceback (syrupy 7.0).
    """
    written = output.get("syrupy_write_sidecars", ())
    output["syrupy_write_sidecars"] = [path for path in written if Path(path).parent.is_dir()]
