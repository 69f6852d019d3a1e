"""A thread of the controller that ends workers which stay in one phase for too long."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_nnsight.isolation.limits import DUMP_SIGNAL, grace
from pytest_nnsight.isolation.post import Whereabouts, read_post

_TICK = 0.5  # seconds
_DUMP = 2.0  # seconds a worker has to write its stacks before it is killed
PIPE = 3.0  # seconds to read what a worker sent before its end


@dataclass(slots=True)
class _Clock:
    path: Path
    turn: int = -1
    seconds: float = 0.0
    seconds_dead: float = 0.0


class Supervisor(threading.Thread):
    """Reads the states of workers; ``hung`` has the last state of each worker that it has killed.

    It counts the time in which this process ran: a terminal that was suspended ends no worker. It
    also reports workers as dead that xdist still waits for: those whose pipe a child holds open,
    and those in uninterruptible sleep.
    """

    def __init__(self) -> None:
        super().__init__(name="nnsight-supervisor", daemon=True)
        self._stopped = threading.Event()
        self._nodes: dict[Any, _Clock] = {}
        self.hung: dict[str, Whereabouts] = {}

    def add(self, node: Any, path: Path) -> None:
        """Supervise a worker that writes its state to ``path``."""
        if process_of(node) is None:
            return
        self._nodes[node] = _Clock(path)
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
            for node, clock in list(self._nodes.items()):
                self._check(node, clock, passed)

    def _check(self, node: Any, clock: _Clock, passed: float) -> None:
        name = node.gateway.id
        if process_of(node).poll() is not None or name in self.hung:
            clock.seconds_dead += passed
            if clock.seconds_dead > PIPE:
                del self._nodes[node]
                if not node._down:  # xdist has no other way to be told, as of 3.8
                    node._down = True
                    node.notify_inproc("errordown", node=node, error="Not properly terminated")
            return
        state = read_post(clock.path)
        clock.seconds = clock.seconds + passed if state.turn == clock.turn else 0.0
        clock.turn = state.turn
        if state.seconds and clock.seconds > state.seconds + grace(state.seconds):
            self._end(node, clock.path, state)

    def _end(self, node: Any, path: Path, state: Whereabouts) -> None:
        """Let a worker write its stacks, and kill it; not where it has gone on meanwhile."""
        process, stack = process_of(node), Path(f"{path}.stack")
        if DUMP_SIGNAL is not None:
            process.send_signal(DUMP_SIGNAL)
        until = time.monotonic() + _DUMP
        while time.monotonic() < until and not _has_text(stack):
            time.sleep(0.05)
        time.sleep(0.2)
        if read_post(path).turn == state.turn:
            self.hung[node.gateway.id] = read_post(path)
            process.kill()


def _has_text(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_size > 0
    return False


def process_of(node: Any) -> Any:
    """Return a worker's process, which execnet keeps to itself; ``None`` for a remote one."""
    return getattr(node.gateway._io, "popen", None)
