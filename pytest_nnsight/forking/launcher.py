"""Run in place of a worker's Python: have it forked, and end as it ended.

A script of the standard library alone. Its arguments are the server's socket, the seconds to wait
for it, and those of a Python. Where the server does not fork, is not ready in time, or is not
there, it becomes that Python itself.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress

_STREAMS = (0, 1, 2)


def launch(address: str, seconds: float, arguments: list[str]) -> int:
    """Return what a forked process ended with, minus the signal where it was killed by one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # says nothing of a Ctrl-C, that pytest answers
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile() as answers:
        try:
            connection.settimeout(seconds)
            connection.connect(address)
            if answers.readline():
                connection.settimeout(None)
                socket.send_fds(connection, [b"\n"], _STREAMS)
                connection.sendall(json.dumps(arguments).encode() + b"\n")
            is_forked = bool(answers.readline())
        except OSError:
            is_forked = False
            with suppress(OSError):
                os.unlink(address)  # that no other waits as long
        if not is_forked:
            os.execv(sys.executable, [sys.executable, *arguments])
        # What ends a worker reaches it by itself, and who reads its output waits for its end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in _STREAMS:
            os.dup2(nowhere, stream)
        return int(answers.readline() or 1)


def end(status: int) -> None:
    """End this process with an exit code, or by the signal that is its negative."""
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # whoever died has left its own
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


if __name__ == "__main__":
    end(launch(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
