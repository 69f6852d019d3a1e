"""What a hang or crash is called, and the frames of its stack that are shown."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_nnsight.isolation.heartbeat import WorkerState

MOST_LINES = 24
# Frames of the test runner, around those of the test.
_RUNNER = re.compile(
    r"[/\\](_pytest|pluggy|xdist|execnet|pytest_nnsight)[/\\]"
    r"|[/\\](runpy|threading|importlib[/\\]__init__)\.py|<(string|frozen \w+(\.\w+)*)>"
)
_FAULT = re.compile(r'^  File "([^"]*)", line (\d+) in (.*)$')
_SIGNALS: dict[int, str] = {
    signal.SIGSEGV: "CRASHED: segmentation fault",
    signal.SIGABRT: "CRASHED: aborted",
    signal.SIGFPE: "CRASHED: arithmetic error",
    signal.SIGILL: "CRASHED: illegal instruction",
    signal.SIGBUS: "CRASHED: bus error",
    signal.SIGTERM: "KILLED: terminated",
    signal.SIGKILL: "KILLED (out of memory?)",
}


@dataclass(frozen=True, slots=True)
class WorkerCrash:
    """How a worker ended that crashed, was killed or lost its connection.

    ``stack`` is what `faulthandler` wrote, ``output`` what pytest captured. ``is_hung`` tells that
    the controller killed the worker, ``is_lost`` that it closed its connection and went on.
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
        return _SIGNALS.get(-code, f"KILLED by signal {-code}")

    @property
    def lines(self) -> list[str]:
        """The title, then the Python stack if there is one, innermost frame first."""
        frames = trimmed_fault(self.stack)
        return [self.title, *(["stack, innermost first:", *frames] if frames else [])]


def hung_title(state: WorkerState) -> str:
    """Return what a hang is called: ``HUNG after 60 s, last module transformer.h.3``."""
    return f"HUNG after {state.seconds:g} s{state.where}"


def trimmed(stack: Sequence[str]) -> list[str]:
    """Return the test's frames of a `traceback.format_stack`, innermost last."""
    frames = [frame.rstrip("\n") for frame in stack if not _RUNNER.search(frame.split("\n")[0])]
    return [line for frame in frames for line in frame.split("\n")][-MOST_LINES:]


def trimmed_fault(text: str) -> list[str]:
    """Return the test's frames, of all threads, of what `faulthandler` wrote, innermost first."""
    found = [match for line in text.splitlines() if (match := _FAULT.match(line))]
    frames = [match.groups() for match in found if not _RUNNER.search(match[1])]
    return [f'  File "{file}", line {line}, in {name}' for file, line, name in frames][:MOST_LINES]
