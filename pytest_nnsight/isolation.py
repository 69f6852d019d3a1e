"""The watchdog: a test that runs longer than its time ends with a stack, not never.

`faulthandler`'s timer works whatever holds the interpreter. It ends the process; under
``pytest -n 1`` that is the worker, xdist replaces it and the rest of the run goes on.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def terminal() -> int:
    """Return a descriptor of the process's own stderr, to be taken before pytest captures it."""
    return os.dup(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)


@contextmanager
def watchdog(seconds: float, stderr: int) -> Iterator[None]:
    """End the process with exit code 1 if the block outlasts ``seconds``; 0 is no limit.

    All Python stacks go to the descriptor ``stderr``. There is one such timer a process: pytest's
    own ``faulthandler_timeout`` must be off while this is armed.
    """
    if not seconds:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
