"""Ways to hang, crash or end a process; tests copy this file into their projects."""

import atexit  # noqa: F401  # projects import it from here
import ctypes
import faulthandler
import itertools
import os
import resource
import signal
import sys
import threading
import time

import pytest


def loop():
    while True:
        pass


def lock():
    held = threading.Lock()
    held.acquire()
    held.acquire()


def memory():
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**36, before[1]))
    try:
        bytearray(2**37)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def interrupt():
    raise KeyboardInterrupt


def cancel_timers():
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()
    time.sleep(100)


def fork():
    if not os.fork():
        time.sleep(30)
        os._exit(0)


class NoTextError(Exception):
    def __str__(self):
        raise ValueError("no text")


def raise_without_text():
    raise NoTextError


CAUSES = {
    "sleep": lambda: time.sleep(100),
    "loop": loop,
    "lock": lock,
    "interpreter": lambda: sum(itertools.repeat(1)),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(3),
    "sys.exit": lambda: sys.exit(3),
    "interrupt": interrupt,
    "memory": memory,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "timers": cancel_timers,
    "closed": lambda: os.closerange(3, 256),
    "child": fork,
    "pytest.exit": lambda: pytest.exit("all done", returncode=1),
    "surrogate": lambda: pytest.fail("\ud800"),
    "no text": raise_without_text,
}
