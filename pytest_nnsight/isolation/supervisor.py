"""A thread of the controller that ends workers which stay in one phase for too long."""

from __future__ import annotations

import os
import threading
import time
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
    path: Path
    turn: int = -1
    seconds: float = 0.0


class Supervisor(threading.Thread):
    """Reads the states of workers; ``hung`` has the last state of each worker that it has killed.

    It counts the time in which this process ran: a terminal that was suspended ends no worker. It
    reports workers as dead that xdist would wait for: a child may hold a dead worker's pipe open,
    and a kill ends no uninterruptible sleep.
    """

    def __init__(self) -> None:
        super().__init__(name="nnsight-supervisor", daemon=True)
        self._clocks: dict[Any, _Clock] = {}
        self._stopped = threading.Event()
        self._exit_seconds = 0.0
        self.hung: dict[str, WorkerState] = {}

    def add(self, node: Any, path: Path) -> None:
        """Supervise a worker of this machine, which writes its state to ``path``."""
        if process_of(node.gateway) is not None:
            self._clocks[node] = _Clock(path)
            if not self.is_alive():
                self.start()

    def stop(self) -> None:
        """Supervise no worker any more."""
        self._stopped.set()

    def run(self) -> None:
        """Look at every worker twice a second."""
        last = time.monotonic()
        while not self._stopped.wait(_TICK):
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
            if not node._down:  # xdist has no other way to be told, as of 3.8
                node._down = True
                node.notify_inproc("errordown", node=node, error="Not properly terminated")
        elif node._down and not self._exit_seconds:  # it waits for others, or is dead for xdist
            pass
        elif state.seconds and clock.seconds > state.seconds + limits.grace(state.seconds):
            self._end(node, clock.path, state)

    def _end(self, node: Any, path: Path, state: WorkerState) -> None:
        """Let a worker write its stacks, and kill it; not where it has gone on meanwhile."""
        process, stack = process_of(node.gateway), Path(f"{path}.stack")
        if limits.DUMP_SIGNAL is not None:
            process.send_signal(limits.DUMP_SIGNAL)
        until = time.monotonic() + _DUMP
        while time.monotonic() < until and not (stack.exists() and stack.stat().st_size):
            time.sleep(0.05)
        time.sleep(0.2)  # for the rest of the stacks
        if read_heartbeat(path).turn == state.turn:
            self.hung[node.gateway.id] = replace(read_heartbeat(path), seconds=state.seconds)
            process.kill()

    def end_all(self, group: Any, seconds: float) -> list[str]:
        """Let workers end, in ``seconds`` at most; return what children they left.

        xdist has none to wait for then: it would kill a worker after 10 seconds without a word.
        """
        gateways = [gateway for gateway in group if process_of(gateway) is not None]
        for gateway in gateways:
            gateway.exit()
        for clock in list(self._clocks.values()):
            clock.seconds = 0.0
        self._exit_seconds = limits.EXIT_SECONDS
        until = time.monotonic() + seconds
        for gateway in gateways:
            process = process_of(gateway)
            while process.poll() is None and gateway.id not in self.hung:
                if time.monotonic() > until:
                    process.kill()
                    break
                time.sleep(0.02)
            with suppress(TimeoutExpired):
                process.wait(_PIPE)
        until = time.monotonic() + _PIPE
        while any(gateway.hasreceiver() for gateway in gateways) and time.monotonic() < until:
            time.sleep(0.02)
        self.stop()
        return [
            f"worker {gateway.id}: a child process of a test is still running "
            f"({_holders(gateway._io.infile)})"
            for gateway in gateways
            if gateway.hasreceiver()
        ]


def process_of(gateway: Any) -> Any:
    """Return a worker's process, which execnet keeps to itself; ``None`` for a remote one."""
    return getattr(gateway._io, "popen", None)


def _holders(pipe: Any) -> str:
    """Name the processes that hold a pipe open; Linux alone tells."""
    name, found = f"pipe:[{os.fstat(pipe.fileno()).st_ino}]", set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(link) == name:
                found.add(int(link.parts[2]))
    return ", ".join(map(str, sorted(found - {os.getpid()}))) or "its pid is not known"
