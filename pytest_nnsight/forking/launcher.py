"""Run in place of a worker's Python: have it forked, and end as it ended.

A script of the standard library alone. Its arguments are the server's socket and those of a
Python. Where the server does not fork, and where there is none, it becomes that Python itself.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys

_STREAMS = (0, 1, 2)


def launch(address: str, arguments: list[str]) -> int:
    """Return what a forked process ended with, minus the signal where it was killed by one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # says nothing of a Ctrl-C, that pytest answers
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
            socket.send_fds(connection, [b"\n"], _STREAMS)
            connection.sendall(json.dumps(arguments).encode() + b"\n")
            answers = connection.makefile()
            is_forked = bool(answers.readline())
        except OSError:
            is_forked = False
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
    end(launch(sys.argv[1], sys.argv[2:]))
