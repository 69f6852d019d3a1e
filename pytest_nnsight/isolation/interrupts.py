"""What would end a worker from within: its test fails instead, and the others run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

from pytest_nnsight.errors import text_of


class RaisedInterrupt(Exception):  # noqa: N818  # it stands for one
    """A ``KeyboardInterrupt`` or ``SystemExit`` that code raised and nobody asked for."""

    __module__ = "builtins"  # reports show its name alone


class Interrupts:
    """Tells an interrupt that code raised from one that came as a signal.

    A signal comes from a person, or from xdist to a worker that is to end; those go through.
    """

    def __init__(self, is_worker: bool) -> None:
        self._is_ours = is_worker and threading.current_thread() is threading.main_thread()
        if self._is_ours:
            signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._is_ours = False
        signal.default_int_handler(number, frame)

    @contextmanager
    def as_failures(self) -> Iterator[None]:
        """Raise `RaisedInterrupt` for an interrupt that was not asked for."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            if not self._is_ours:
                raise
            text = ": ".join(filter(None, (type(error).__name__, text_of(error))))
            raise RaisedInterrupt(text).with_traceback(error.__traceback__) from None

    def wrap(self, finalizers: list[Callable[[], object]]) -> None:
        """Let each of a fixture's finalizers fail instead.

        Where one raises what is no `Exception`, pytest loses track of what else to take down, and
        blames the next test (as of pytest 9).
        """
        finalizers[:] = [partial(self._call, finalizer) for finalizer in finalizers]

    def _call(self, finalizer: Callable[[], object]) -> None:
        with self.as_failures():
            finalizer()
