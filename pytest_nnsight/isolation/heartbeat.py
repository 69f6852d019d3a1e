"""Where a worker is, in a file that outlives it."""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

_RECORD, _MODULE = 3072, 1024
_LONGEST_NAME = 480  # characters, of up to four bytes each


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What a process was doing, for ``seconds`` at most.

    ``phase`` is start, collection, loading, setup, call, teardown, idle or exit; ``name`` the test,
    the file that is collected or the model that is loaded; ``module`` the last module captured.
    ``turn`` counts what a process has begun.
    """

    phase: str = "start"
    name: str = ""
    seconds: float = 0.0
    module: str = ""
    turn: int = field(default=0, compare=False)

    @property
    def where(self) -> str:
        """The phase and the last module, to go behind what happened; no phase for a call."""
        told = {"call": "", "idle": "", "start": " at its start", "exit": " at its end"}
        at = told.get(self.phase, f" in {self.phase}")
        if self.phase in ("loading", "collection") and self.name:
            at = f" while {self.phase.replace('collection', 'collecting')} {self.name}"
        return f"{at}, last module {self.module}" if self.module else at


class Heartbeat:
    """Writes where this process is into memory that is the file's: it survives the process.

    Without a system call, of which a generation would make ten thousands. The file is written as a
    whole before: a full disk is an `OSError` here, and would be a bus error later.
    """

    def __init__(self, path: Path) -> None:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(file).st_size == 0:
                os.write(file, bytes(_RECORD + _MODULE))
            self._memory = mmap.mmap(file, _RECORD + _MODULE)
        finally:
            os.close(file)
        self._turn = read_heartbeat(path).turn

    def enter(self, whereabouts: WorkerState) -> None:
        """Say what begins."""
        self._turn += 1
        name = whereabouts.name[:_LONGEST_NAME]
        short = replace(whereabouts, name=name, turn=self._turn)
        text = json.dumps(asdict(short), ensure_ascii=False).encode(errors="replace")
        self._memory[:] = text.ljust(_RECORD + _MODULE, b"\0")

    def reach(self, module: str) -> None:
        """Say which module was captured last."""
        self._memory[_RECORD:] = module.encode()[:_MODULE].ljust(_MODULE, b"\0")


def read_heartbeat(path: Path) -> WorkerState:
    """Return where a process was last; at its start where it never said."""
    try:
        data = path.read_bytes()
        record = json.loads(data[:_RECORD].rstrip(b"\0"))
        module = data[_RECORD:].rstrip(b"\0").decode(errors="replace")
        return WorkerState(**{**record, "module": module})
    except (OSError, ValueError, TypeError):
        return WorkerState()
