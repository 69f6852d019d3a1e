"""The watchdog: a test that runs longer than its time ends with a stack, not never.

`faulthandler`'s timer works whatever holds the interpreter. It ends the process; under
``pytest -n 1`` that is the worker, xdist replaces it and the rest of the run goes on.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def watchdog(seconds: float, stream: TextIO | None = None) -> Iterator[None]:
    """End the process with exit code 1 and all Python stacks if the block outlasts ``seconds``.

    0 is no limit. There is one such timer a process: pytest's own ``faulthandler_timeout`` must be
    off while this is armed.
    """
    if not seconds:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=stream or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
