"""Time limits: a soft one fails the test and keeps the process, a hard one ends the process.

The soft limit raises in the main thread, from a signal handler. It cannot end a loop in C, or code
that catches every exception: then the controller kills the worker (`supervisor`), or the process
ends itself. Only `faulthandler`'s timer works during a loop in C. A process has one, and pytest
cancels it after every failure, so each phase starts it again.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

import pytest

from pytest_nnsight.isolation.crash import hung_title, trimmed
from pytest_nnsight.isolation.heartbeat import Heartbeat, WorkerState

_IMPORTING = ("collection", "loading")
_STEPS = 8  # of a soft limit; at most one passes while the process is stopped
_ORPHAN_SECONDS = 86_400.0  # after which a worker ends whose controller was killed
EXIT_SECONDS = 30.0  # at least, for the end of a worker: a busy machine must not fail
DUMP_SIGNAL = signal.SIGURG  # writes all stacks; a process without a handler ignores it


class Limits:
    """Set the timers of this process, and write its state to ``heartbeat`` if it has a controller.

    Stacks go to the descriptor ``stacks``. A controller ends the process after a hard limit.
    Without one, the process writes what hangs to ``stacks`` and exits with code 1; ``pending`` are
    the node ids of the tests that it then names as not run.
    """

    def __init__(self, stacks: int, heartbeat: Heartbeat | None = None) -> None:
        self._stacks, self._heartbeat = stacks, heartbeat
        self._steps, self._threads = 0, set[int]()
        self._running: list[WorkerState] = []
        self._timer = threading.Timer(0.0, self._end_process)
        self._module = ""
        self.pending: dict[str, None] = {}

    def _state(self) -> WorkerState:
        state = self._running[-1] if self._running else WorkerState("idle")
        return replace(state, module=self._module)

    def record_module(self, module: str) -> None:
        """Remember the module that was captured last."""
        self._module = module
        if self._heartbeat is not None:
            self._heartbeat.write_module(module)

    @contextmanager
    def within(self, phase: str, name: str, seconds: float) -> Iterator[None]:
        """Limit the block to ``seconds``, 0 for no limit; an outer block starts again after it.

        Collection and loading have no soft limit, since an import that was interrupted breaks the
        next imports.
        """
        self._running.append(WorkerState(phase, name, seconds))
        self._start()
        try:
            yield
        finally:
            self._running.pop()
            self._start()

    def _start(self) -> None:
        """Start the timers of the innermost block."""
        faulthandler.cancel_dump_traceback_later()
        self._timer.cancel()
        has_signal = _can_use_alarm(self._expire)
        if has_signal:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._module = ""
        state = self._state()
        if self._heartbeat is not None:
            self._heartbeat.write(state)
        if not state.seconds:
            return
        has_signal = has_signal and state.phase not in _IMPORTING
        hard = state.seconds + (grace(state.seconds) if has_signal else 0.0)
        if self._heartbeat is not None:
            hard += _ORPHAN_SECONDS
        else:
            self._timer = threading.Timer(hard, self._end_process)
            self._timer.daemon = True
            self._timer.start()
            hard += 5.0  # then a loop in C keeps that thread from running
        faulthandler.dump_traceback_later(hard, exit=True, file=self._stacks)
        if has_signal:
            self._threads = set(sys._current_frames())
            self._steps = max(1, min(_STEPS, int(state.seconds)))
            step = state.seconds / self._steps
            signal.signal(signal.SIGALRM, self._expire)
            signal.setitimer(signal.ITIMER_REAL, step, step)

    def _end_process(self) -> None:
        state = self._state()
        test = f" ({state.name})" if state.phase in ("setup", "call", "teardown") else ""
        lines = [f"\nnnsight: {hung_title(state)}{test}"]
        if self.pending:
            lines += [f"{len(self.pending)} tests did not run:", *self.pending]
        os.write(self._stacks, ("\n  ".join(lines) + "\n").encode(errors="replace"))
        faulthandler.dump_traceback(self._stacks)
        os._exit(1)

    def _expire(self, number: int, frame: FrameType | None) -> None:
        """Fail the running test after the last step, with the stacks of all threads.

        If the test started a thread, which may use the model later, the controller ends the worker.
        """
        self._steps -= 1
        if self._steps > 0:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        frames = sys._current_frames()
        if self._heartbeat is not None and set(frames) - self._threads:
            return
        del frames[threading.get_ident()]  # the main thread, whose stack is that of ``frame``
        lines = [hung_title(self._state())]
        for each in (frame, *frames.values()):
            lines += trimmed(traceback.format_stack(each))
        raise pytest.fail.Exception("\n".join(lines), pytrace=False)


def _can_use_alarm(handler: Callable[[int, FrameType | None], None]) -> bool:
    """Tell whether this is the main thread and nothing else handles SIGALRM."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN, handler)


def grace(seconds: float) -> float:
    """Return the seconds between a soft limit and the hard one."""
    return min(10.0, max(2.0, seconds / 4))


@contextmanager
def conftest_limit(seconds: float) -> Iterator[None]:
    """End the process if loading conftest files takes longer than ``seconds``, 0 for no limit.

    The stack of a crash is shown too: pytest enables that only after conftest files are loaded.
    """
    stderr, was_enabled = duplicate_stderr(), faulthandler.is_enabled()
    faulthandler.enable(stderr)
    try:
        with Limits(stderr).within("loading", "conftest files", seconds):
            yield
    finally:
        faulthandler.enable(2) if was_enabled else faulthandler.disable()
        os.close(stderr)


def duplicate_stderr() -> int:
    """Return a new descriptor of this process's stderr; call it before pytest captures stderr."""
    return os.dup(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)
