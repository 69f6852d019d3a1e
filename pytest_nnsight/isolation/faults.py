"""A crash of the process itself, where no other is left to tell of it: named, with exit code 1."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_nnsight.isolation.deaths import SIGNALS
from pytest_nnsight.isolation.limits import HARD_EXIT

_FATAL = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")


@contextmanager
def named_faults(where: str, stderr: int) -> Iterator[None]:
    """Say on ``stderr`` what a fault in the block was, with the stacks, and exit with 1.

    Python's own handlers run between instructions of Python, to which a fault never comes: these
    are set in C. Where even they cannot run, a hard limit is what ends the process.
    """
    if os.name != "posix":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)

    def end(number: int) -> None:
        os.write(stderr, f"nnsight: {SIGNALS[number]} {where}\n".encode())
        faulthandler.dump_traceback(stderr)
        os._exit(HARD_EXIT)

    called = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)  # must live as long as it may be called
    handler = ctypes.cast(called, ctypes.c_void_p)
    before = {name: libc.signal(getattr(signal, name), handler) for name in _FATAL}
    try:
        yield
    finally:
        for name, old in before.items():
            libc.signal(getattr(signal, name), old)
