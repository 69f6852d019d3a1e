"""How long things may take: a soft limit that keeps the process, a hard one that ends it.

The soft limit raises in the main thread, from a signal. That does not end a loop in C, or code that
swallows every exception: there the controller kills the worker (`supervisor`). Where there is no
controller, `faulthandler`'s timer ends the process, whatever holds the interpreter. There is one
such timer a process, and pytest takes it off after every failure: it is armed for each phase anew.
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
_STEPS = 8  # of a soft limit: while a process is stopped, one of them passes at most
_ORPHAN = 86_400.0  # seconds in which a worker ends whose controller was killed
EXIT_SECONDS = 30.0  # at least, for the end of a worker: a busy machine must not fail
HARD_EXIT = 1  # what `faulthandler` exits with
# Writes the stacks of all threads; without a handler nothing happens.
DUMP_SIGNAL: int | None = getattr(signal, "SIGURG", None)


class Limits:
    """The timers of this process; stacks go to the descriptor ``stacks``.

    ``enters`` is told what begins, ``module`` gives the last module that was captured. ``ends`` is
    called in a thread of its own, where there is one, before the process is ended. A controller
    ends a process that ``is_supervised``.
    """

    def __init__(
        self,
        stacks: int,
        enters: Callable[[WorkerState], None],
        module: Callable[[], str],
        ends: Callable[[str], None] | None = None,
        is_supervised: bool = False,
    ) -> None:
        self._stacks, self._enters, self._module, self._ends = stacks, enters, module, ends
        self._is_supervised, self._steps, self._threads = is_supervised, 0, set[int]()
        self._running: list[WorkerState] = []
        self._timer: threading.Timer | None = None

    @contextmanager
    def within(self, phase: str, name: str, seconds: float) -> Iterator[None]:
        """End the block after ``seconds``, 0 for never; one around it starts anew after it.

        There is no soft limit for collecting and loading, which import: an import that is broken
        off breaks the next ones.
        """
        self._running.append(WorkerState(phase, name, seconds))
        self._arm()
        try:
            yield
        finally:
            self._running.pop()
            self._arm()

    def _arm(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        if self._timer is not None:
            self._timer.cancel()
        takes_signals = _takes_signals(self._expire)
        if takes_signals:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if not self._running:
            self._enters(WorkerState("idle"))
            return
        now = self._running[-1]
        takes_signals = takes_signals and now.phase not in _IMPORTING
        self._enters(now)
        if not now.seconds:
            return
        hard = now.seconds + (grace(now.seconds) if takes_signals else 0.0)
        if self._is_supervised:
            hard += _ORPHAN
        elif self._ends is not None:
            self._timer = threading.Timer(hard, self._end)
            self._timer.daemon = True
            self._timer.start()
            hard += 10.0  # for what ends it to be done
        faulthandler.dump_traceback_later(hard, exit=True, file=self._stacks)
        if takes_signals:
            self._threads = set(sys._current_frames())
            self._steps = max(1, min(_STEPS, int(now.seconds)))
            step = now.seconds / self._steps
            signal.signal(signal.SIGALRM, self._expire)
            signal.setitimer(signal.ITIMER_REAL, step, step)

    def _end(self) -> None:
        """End this process with the stacks of all threads, and what ``ends`` does before."""
        assert self._ends is not None
        faulthandler.dump_traceback(self._stacks)
        try:
            self._ends(self._title())
        finally:
            os._exit(HARD_EXIT)

    def _title(self) -> str:
        now = self._running[-1] if self._running else WorkerState()
        return hung(WorkerState(now.phase, now.name, now.seconds, self._module()))

    def _expire(self, number: int, frame: FrameType | None) -> None:
        """Fail what is running after the last step, with each stack that has code of its own.

        A thread that it started would live on and use the model that tests share, as the body of a
        trace before nnsight 0.8: the controller then ends the worker.
        """
        self._steps -= 1
        if self._steps > 0:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._is_supervised and set(sys._current_frames()) - self._threads:
            return
        others = sys._current_frames()
        del others[threading.get_ident()]  # the main thread, as whose part this runs
        lines = [self._title()]
        for each in (frame, *others.values()):
            lines += trimmed(traceback.format_stack(each))
        raise pytest.fail.Exception("\n".join(lines), pytrace=False)


def _takes_signals(handler: Callable[[int, FrameType | None], None]) -> bool:
    """Tell whether SIGALRM is free in this process, for this thread."""
    is_main = threading.current_thread() is threading.main_thread()
    free = (signal.SIG_DFL, signal.SIG_IGN, handler)
    return is_main and hasattr(signal, "setitimer") and signal.getsignal(signal.SIGALRM) in free


def grace(seconds: float) -> float:
    """Return the seconds between a soft limit and the hard one."""
    return min(10.0, max(2.0, seconds / 4))


def hung(now: WorkerState) -> str:
    """Say that something took too long: ``HUNG after 60 s, last module transformer.h.3``."""
    return f"HUNG after {now.seconds:g} s{now.where}"


def terminal() -> int:
    """Return a descriptor of the process's own stderr, to be taken before pytest captures it."""
    return os.dup(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)


@contextmanager
def hard_limit(title: str, seconds: float, stderr: int) -> Iterator[None]:
    """End the process after ``seconds``, 0 for never, with ``title`` and its stacks on stderr.

    The stacks of a crash are shown too: pytest sees to that only once conftest files are loaded.
    """

    def end() -> None:
        os.write(stderr, f"nnsight: {title}, after {seconds:g} s\n".encode())
        faulthandler.dump_traceback(stderr)
        os._exit(HARD_EXIT)

    was_enabled = faulthandler.is_enabled()
    faulthandler.enable(stderr)
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    if seconds:
        timer.start()
        faulthandler.dump_traceback_later(seconds + 2.0, exit=True, file=stderr)
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()
        faulthandler.enable(2) if was_enabled else faulthandler.disable()
