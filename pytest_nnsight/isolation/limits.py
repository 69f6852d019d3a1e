"""Time limits: a soft one fails the test and keeps the process, a hard one ends the process.

The soft limit raises in the main thread, from a signal handler. It cannot end a loop in C, or code
that catches every exception: then the controller kills the worker (`supervisor`). Without a
controller, `faulthandler`'s timer ends the process, whatever holds the interpreter. A process has
one such timer, and pytest cancels it after every failure: it is started again for each phase.
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
from types import FrameType

import pytest

from pytest_nnsight.isolation.heartbeat import WorkerState
from pytest_nnsight.isolation.stacks import trimmed

_IMPORTING = ("collection", "loading")
_STEPS = 8  # of a soft limit; at most one passes while the process is stopped
_ORPHAN_SECONDS = 86_400.0  # after which a worker ends whose controller was killed
EXIT_SECONDS = 30.0  # at least, for the end of a worker: a busy machine must not fail
_HARD_EXIT = 1  # the exit code of `faulthandler`
# Writes the stacks of all threads; a process without a handler ignores it.
DUMP_SIGNAL: int | None = getattr(signal, "SIGURG", None)


class Limits:
    """Set the timers of this process.

    Stacks go to the descriptor ``stacks``. ``on_enter`` is called when a phase begins. Before the
    process is ended, ``on_timeout`` is called in a thread with the title of the hang. If
    ``is_supervised``, the controller ends the process instead. ``module`` is the last module that
    was captured in this phase.
    """

    def __init__(
        self,
        stacks: int,
        on_enter: Callable[[WorkerState], None],
        on_timeout: Callable[[str], None] | None = None,
        is_supervised: bool = False,
    ) -> None:
        self._stacks, self._on_enter, self._on_timeout = stacks, on_enter, on_timeout
        self._is_supervised, self._steps, self._threads = is_supervised, 0, set[int]()
        self._running: list[WorkerState] = []
        self._timer: threading.Timer | None = None
        self.module = ""

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
        if self._timer is not None:
            self._timer.cancel()
        has_signal = _can_use_alarm(self._expire)
        if has_signal:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.module = ""
        state = self._running[-1] if self._running else WorkerState("idle")
        self._on_enter(state)
        if not state.seconds:
            return
        has_signal = has_signal and state.phase not in _IMPORTING
        hard = state.seconds + (grace(state.seconds) if has_signal else 0.0)
        if self._is_supervised:
            hard += _ORPHAN_SECONDS
        elif self._on_timeout is not None:
            self._timer = threading.Timer(hard, self._end_process)
            self._timer.daemon = True
            self._timer.start()
            hard += 10.0  # for `on_timeout` to finish
        faulthandler.dump_traceback_later(hard, exit=True, file=self._stacks)
        if has_signal:
            self._threads = set(sys._current_frames())
            self._steps = max(1, min(_STEPS, int(state.seconds)))
            step = state.seconds / self._steps
            signal.signal(signal.SIGALRM, self._expire)
            signal.setitimer(signal.ITIMER_REAL, step, step)

    def _end_process(self) -> None:
        try:
            if self._on_timeout is not None:
                self._on_timeout(self._title())
        finally:
            faulthandler.dump_traceback(self._stacks)
            os._exit(_HARD_EXIT)

    def _title(self) -> str:
        state = self._running[-1] if self._running else WorkerState()
        return hung_title(WorkerState(state.phase, state.name, state.seconds, self.module))

    def _expire(self, number: int, frame: FrameType | None) -> None:
        """Fail the running test after the last step, with the stacks of all threads.

        A thread that the test started would go on using the shared model, like the body of a trace
        before nnsight 0.8: then the controller ends the worker.
        """
        self._steps -= 1
        if self._steps > 0:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        frames = sys._current_frames()
        if self._is_supervised and set(frames) - self._threads:
            return
        del frames[threading.get_ident()]  # the main thread, whose stack is that of ``frame``
        lines = [self._title()]
        for each in (frame, *frames.values()):
            lines += trimmed(traceback.format_stack(each))
        raise pytest.fail.Exception("\n".join(lines), pytrace=False)


def _can_use_alarm(handler: Callable[[int, FrameType | None], None]) -> bool:
    """Tell whether this is the main thread and nothing else handles SIGALRM."""
    is_main = threading.current_thread() is threading.main_thread()
    free = (signal.SIG_DFL, signal.SIG_IGN, handler)
    return is_main and hasattr(signal, "setitimer") and signal.getsignal(signal.SIGALRM) in free


def grace(seconds: float) -> float:
    """Return the seconds between a soft limit and the hard one."""
    return min(10.0, max(2.0, seconds / 4))


def hung_title(state: WorkerState) -> str:
    """Return what a hang is called: ``HUNG after 60 s, last module transformer.h.3``."""
    return f"HUNG after {state.seconds:g} s{state.where}"


def duplicate_stderr() -> int:
    """Return a new descriptor of this process's stderr; call it before pytest captures stderr."""
    return os.dup(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)


@contextmanager
def hard_limit(title: str, seconds: float, stderr: int) -> Iterator[None]:
    """End the process after ``seconds``, 0 for never, with ``title`` and its stacks on stderr.

    The stack of a crash is shown too: pytest enables that only after conftest files are loaded.
    """

    def show(_: str) -> None:
        os.write(stderr, f"nnsight: {title}, after {seconds:g} s\n".encode())

    was_enabled = faulthandler.is_enabled()
    faulthandler.enable(stderr)
    try:
        with Limits(stderr, lambda state: None, show).within("loading", "", seconds):
            yield
    finally:
        faulthandler.enable(2) if was_enabled else faulthandler.disable()
