"""Turn interrupts that a test raises into failures of that test."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pytest_nnsight.errors import text_of


class RaisedInterrupt(Exception):  # noqa: N818  # stands for an interrupt, which is not an error
    """Report a ``KeyboardInterrupt`` or ``SystemExit`` that code raised."""

    __module__ = "builtins"  # reports then show only the name


class Interrupts:
    """Tell an interrupt that code raised from a signal that a user or xdist sent."""

    def __init__(self, is_worker: bool) -> None:
        self._converts = is_worker and threading.current_thread() is threading.main_thread()
        if self._converts:
            signal.signal(signal.SIGINT, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._converts = False
        signal.default_int_handler(number, frame)

    @contextmanager
    def as_failures(self) -> Iterator[None]:
        """Raise `RaisedInterrupt` instead of an interrupt that code raised."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            if not self._converts:
                raise
            text = ": ".join(filter(None, (type(error).__name__, text_of(error))))
            raise RaisedInterrupt(text).with_traceback(error.__traceback__) from None

    def wrap(self, finalizers: list[Callable[[], object]]) -> None:
        """Let a fixture's finalizers fail instead of raising an interrupt.

        Otherwise pytest would not run the other finalizers, and the next test fails (pytest 9).
        """
        finalizers[:] = [self.as_failures()(finalizer) for finalizer in finalizers]
