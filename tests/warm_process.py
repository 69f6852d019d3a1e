"""A process that is forked by `warm_server`, for what would start it as a `subprocess.Popen`."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

READ_AT_START = (
    *("PYTHON", "LANG", "LC_", "TZ"),
    *("HF_", "TRANSFORMERS_", "TORCH_", "PYTORCH_", "ATEN_", "ACCELERATE_"),
    *("OMP_", "MKL_", "OPENBLAS_", "KMP_", "CUDA_", "XDG_"),
)
"""How variables begin that Python or a library looks at once: a fork would not see them."""


def read_at_start(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what cannot change for a process that has started."""
    found = {name: environ[name] for name in environ if name.startswith(READ_AT_START)}
    found.pop("PYTHONPATH", None)  # which the server follows
    return found


@dataclass(frozen=True)
class WarmServer:
    """Where a server listens, the home of what it keeps of the model hub, what it read at start."""

    socket: Path
    home: Path
    known: dict[str, str]


class WarmProcess:
    """What pytester, execnet and the plugin need of a `subprocess.Popen`."""

    def __init__(
        self,
        server: Path,
        args: Sequence[str],
        descriptors: Sequence[int],
        environ: Mapping[str, str],
    ) -> None:
        """Start ``python -c CODE`` or ``python -mpytest ...`` with these three descriptors."""
        self.args = list(args)
        self.stdin = self.stdout = None
        self.returncode: int | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(server))
        asked = {"args": self.args, "environ": dict(environ), "folder": os.getcwd()}
        message = (json.dumps(asked) + "\n").encode()
        sent = socket.send_fds(self._socket, [message], list(descriptors))
        self._socket.sendall(message[sent:])
        self.pid = self._read_number()

    def _read_number(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            got = self._socket.recv(1)
            if not got:
                raise RuntimeError("the warm server is gone")
            line += got
        return int(line)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._socket], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = self._read_number()
            self._socket.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)
