"""Ways to hang, crash or end a process; the projects of our tests are given this file."""

import atexit  # noqa: F401  # projects take it from here
import ctypes
import itertools
import os
import resource
import signal
import sys
import threading
import time


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
}
