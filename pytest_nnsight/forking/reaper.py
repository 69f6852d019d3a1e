"""Tell how forked processes end to those who wait for it, and end those for which nobody waits.

A script of the standard library alone, and the parent of those processes: what `server` becomes,
whose memory goes back with that. Its argument is JSON: a connection for each process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress


def reap(waiting: dict[int, int]) -> None:
    """Return once all have ended; with stdin, which is pytest's, they are ended."""
    connections = {number: socket.socket(fileno=number) for number in waiting.values()}
    processes = {os.pidfd_open(process): process for process in waiting}
    poll = select.poll()
    for number in (0, *connections, *processes):
        poll.register(number, select.POLLIN)
    while processes:
        for number, _ in poll.poll():
            poll.unregister(number)
            if number in processes:
                process = processes.pop(number)
                status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                with suppress(OSError):  # who waited has gone
                    connections[waiting[process]].sendall(f"{status}\n".encode())
            else:
                _kill(left for left in processes.values() if number in (0, waiting[left]))


def _kill(processes: Iterable[int]) -> None:
    """End processes that are ours, and have not been waited for."""
    for process in processes:
        os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which ends its workers
    reap({int(process): number for process, number in json.loads(sys.argv[1]).items()})
