"""A thread of the controller that kills workers which stay in one phase for too long."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

from pytest_nnsight.isolation import limits
from pytest_nnsight.isolation.heartbeat import WorkerState, read_heartbeat

_TICK = 0.5  # seconds
_PIPE = 3.0  # seconds to read what a worker sent before its end
_DUMP = 2.0  # seconds a worker has to write its stacks before it is killed


@dataclass(slots=True)
class _Clock:
    """How long a worker has been in its present state."""

    path: Path
    turn: int = -1
    seconds: float = 0.0


class Supervisor(threading.Thread):
    """Kill workers that hang; ``hung`` has the last state of each.

    Only time in which this process ran counts, so that suspending the terminal kills no worker.
    Dead workers are reported to xdist, which would wait for them: a child may hold a dead worker's
    pipe open, and a kill does not end uninterruptible sleep.
    """

    def __init__(self) -> None:
        super().__init__(name="nnsight-supervisor", daemon=True)
        self._clocks: dict[Any, _Clock] = {}
        self.stopped = threading.Event()
        self._exit_seconds = 0.0
        self.hung: dict[str, WorkerState] = {}

    def add(self, node: Any, path: Path) -> None:
        """Supervise a worker, which writes its state to ``path``."""
        self._clocks[node] = _Clock(path)
        if not self.is_alive():
            self.start()

    def run(self) -> None:
        """Check every worker twice a second."""
        last = time.monotonic()
        while not self.stopped.wait(_TICK):
            now = time.monotonic()
            passed, last = min(now - last, 2 * _TICK), now
            for node, clock in list(self._clocks.items()):
                clock.seconds += passed
                self._check(node, clock)

    def _check(self, node: Any, clock: _Clock) -> None:
        is_dead = process_of(node.gateway).poll() is not None or node.gateway.id in self.hung
        state = WorkerState("dead", turn=-2) if is_dead else read_heartbeat(clock.path)
        state = replace(state, seconds=state.seconds or self._exit_seconds)
        if state.turn != clock.turn:
            clock.turn, clock.seconds = state.turn, 0.0
        elif is_dead and clock.seconds > _PIPE:
            del self._clocks[node]
            if not node._down:  # as of 3.8, xdist has no public way to report a dead worker
                node._down = True
                node.notify_inproc("errordown", node=node, error="Not properly terminated")
        elif node._down and not self._exit_seconds:
            pass  # xdist counts it as ended, or it waits for other workers to end
        elif state.seconds and clock.seconds > state.seconds + limits.grace(state.seconds):
            self._kill(node, clock.path, state)

    def _kill(self, node: Any, path: Path, state: WorkerState) -> None:
        """Let a worker write its stacks, and kill it unless it went on in the meantime."""
        process, stack = process_of(node.gateway), Path(f"{path}.stack")
        process.send_signal(limits.DUMP_SIGNAL)
        _wait_until(lambda: stack.exists() and stack.stat().st_size > 0, _DUMP)
        time.sleep(0.2)  # for the rest of the stacks
        if read_heartbeat(path).turn == state.turn:
            self.hung[node.gateway.id] = replace(read_heartbeat(path), seconds=state.seconds)
            process.kill()

    def end_all(self, group: Any, seconds: float) -> list[str]:
        """Let workers end, within ``seconds``; return a line for each child process they left.

        Otherwise xdist would kill a worker after 10 seconds and not report it.
        """
        gateways = [*group]
        processes = {gateway.id: process_of(gateway) for gateway in gateways}

        def have_ended() -> bool:
            return all(p.poll() is not None or name in self.hung for name, p in processes.items())

        for gateway in gateways:
            gateway.exit()
        for clock in list(self._clocks.values()):
            clock.seconds = 0.0
        self._exit_seconds = limits.EXIT_SECONDS
        _wait_until(have_ended, seconds)
        for process in processes.values():
            end_process(process, 0.0)
        _wait_until(lambda: not any(gateway.hasreceiver() for gateway in gateways), _PIPE)
        self.stopped.set()
        return [
            f"worker {gateway.id}: a child process of a test is still running "
            f"({_pids_that_hold(gateway._io.infile)})"
            for gateway in gateways
            if gateway.hasreceiver()
        ]


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)


def process_of(gateway: Any) -> Any:
    """Return a worker's process, a private attribute of execnet."""
    return gateway._io.popen


def end_process(process: Any, seconds: float) -> bool:
    """Wait for a process, and kill it after ``seconds``; return whether it was killed."""
    with suppress(TimeoutExpired):
        process.wait(seconds)
        return False
    process.kill()
    with suppress(TimeoutExpired):  # in uninterruptible sleep
        process.wait(_PIPE)
    return True


def _pids_that_hold(pipe: Any) -> str:
    """Return the ids of the processes that hold a pipe open, which only Linux can tell."""
    name, found = f"pipe:[{os.fstat(pipe.fileno()).st_ino}]", set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(link) == name:
                found.add(int(link.parts[2]))
    return ", ".join(map(str, sorted(found - {os.getpid()}))) or "its pid is not known"
