"""The state of a worker, in a file that the controller can read after the worker's death."""

from __future__ import annotations

import json
import mmap
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

_STATE_BYTES, _MODULE_BYTES = 3072, 1024
_LONGEST_NAME = 480  # characters, of up to four bytes each


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What a worker is doing, and the ``seconds`` that it may take.

    ``phase`` is start, collection, loading, setup, call, teardown, idle or exit. ``name`` is the
    test, the file that is collected or the model that is loaded. ``module`` is the last module
    captured. ``turn`` counts the states that were written.
    """

    phase: str = "start"
    name: str = ""
    seconds: float = 0.0
    module: str = ""
    turn: int = field(default=0, compare=False)

    @property
    def where(self) -> str:
        """The phase, unless it is a call, and the last module, to follow what happened."""
        words = {"call": "", "idle": "", "start": " at its start", "exit": " at its end"}
        text = words.get(self.phase, f" in {self.phase}")
        if self.phase in ("loading", "collection") and self.name:
            text = f" while {self.phase.replace('collection', 'collecting')} {self.name}"
        return f"{text}, last module {self.module}" if self.module else text


class Heartbeat:
    """Write the state of this process into a file that is mapped into memory.

    Writing needs no system call, which generation would repeat ten thousand times. All bytes are
    allocated first: on a full disk that raises `OSError`; a later write would be a bus error.
    """

    def __init__(self, path: Path) -> None:
        with path.open("a+b", buffering=0) as file:
            if file.tell() == 0:
                file.write(bytes(_STATE_BYTES + _MODULE_BYTES))
            self._memory = mmap.mmap(file.fileno(), _STATE_BYTES + _MODULE_BYTES)
        self._turn = read_heartbeat(path).turn

    def write(self, state: WorkerState) -> None:
        """Write a new state, without a module."""
        self._turn += 1
        short = replace(state, name=state.name[:_LONGEST_NAME], turn=self._turn)
        text = json.dumps(asdict(short), ensure_ascii=False).encode(errors="replace")
        self._memory[:] = text.ljust(_STATE_BYTES + _MODULE_BYTES, b"\0")

    def write_module(self, module: str) -> None:
        """Write which module was captured last."""
        self._memory[_STATE_BYTES:] = module.encode()[:_MODULE_BYTES].ljust(_MODULE_BYTES, b"\0")


def read_heartbeat(path: Path) -> WorkerState:
    """Return the last state of a process; the phase is start if it wrote none."""
    try:
        data = path.read_bytes()
        state = json.loads(data[:_STATE_BYTES].rstrip(b"\0"))
        module = data[_STATE_BYTES:].rstrip(b"\0").decode(errors="replace")
        return WorkerState(**{**state, "module": module})
    except (OSError, ValueError, TypeError):
        return WorkerState()
