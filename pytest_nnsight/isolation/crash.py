"""Say in one line how a worker ended, and show the stack that it left."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_nnsight.isolation.heartbeat import WorkerState
from pytest_nnsight.isolation.limits import hung_title
from pytest_nnsight.isolation.stacks import trimmed_fault

_SIGNALS = {
    "SIGSEGV": "CRASHED: segmentation fault",
    "SIGABRT": "CRASHED: aborted",
    "SIGFPE": "CRASHED: arithmetic error",
    "SIGILL": "CRASHED: illegal instruction",
    "SIGBUS": "CRASHED: bus error",
    "SIGTERM": "KILLED: terminated",
    "SIGKILL": "KILLED (out of memory?)",
}


@dataclass(frozen=True, slots=True)
class WorkerCrash:
    """How a worker ended that crashed, was killed or lost its connection.

    ``exit_code`` is ``None`` if it is not known. ``stack`` is what `faulthandler` wrote, ``output``
    what pytest captured of stdout and stderr. ``is_hung`` tells that the controller killed the
    worker, ``is_lost`` that the worker closed its connection and went on.
    """

    exit_code: int | None
    last: WorkerState
    stack: str = ""
    output: Mapping[str, str] = field(default_factory=dict)
    is_hung: bool = False
    is_lost: bool = False

    @property
    def title(self) -> str:
        """What happened, in one line."""
        if self.is_hung:
            return hung_title(self.last)
        if self.is_lost:
            return "LOST: the worker closed its connection to pytest"
        return f"{self._exit()}{self.last.where}"

    def _exit(self) -> str:
        code = self.exit_code
        if code is None:
            return "CRASHED"
        if code >= 0:
            return f"EXITED {code}"
        name = next((each.name for each in signal.Signals if each == -code), "")
        return _SIGNALS.get(name, f"KILLED by signal {-code}")

    @property
    def lines(self) -> list[str]:
        """The title, then the Python stack if there is one, innermost frame first."""
        frames = trimmed_fault(self.stack)
        return [self.title, *(["stack, innermost first:", *frames] if frames else [])]
