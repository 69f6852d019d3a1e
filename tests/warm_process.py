"""A process that `warm_server` forks, with the interface of a `subprocess.Popen`."""

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

STARTUP_PREFIXES = (
    *("PYTHON", "LANG", "LC_", "TZ"),
    *("HF_", "TRANSFORMERS_", "TORCH_", "PYTORCH_", "ATEN_", "ACCELERATE_"),
    *("OMP_", "MKL_", "OPENBLAS_", "KMP_", "CUDA_", "XDG_"),
)
"""Prefixes of the variables that Python or a library reads once: a fork ignores changes to them."""


def startup_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that must be the same in the server for a run to be forked."""
    found = {name: environ[name] for name in environ if name.startswith(STARTUP_PREFIXES)}
    found.pop("PYTHONPATH", None)  # the server applies it in the fork
    return found


@dataclass(frozen=True)
class WarmServer:
    """The socket of a server, its ``HF_HOME``, and the variables that it was started with."""

    socket: Path
    home: Path
    variables: dict[str, str]


class WarmProcess:
    """The part of `subprocess.Popen` that pytester, execnet and the plugin use."""

    def __init__(
        self,
        server: Path,
        args: Sequence[str],
        descriptors: Sequence[int],
        environ: Mapping[str, str],
    ) -> None:
        """Start ``python -c CODE`` or ``python -mpytest ...`` with stdin, stdout and stderr."""
        self.args = list(args)
        self.stdin = self.stdout = None
        self.returncode: int | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(server))
        request = {"args": self.args, "environ": dict(environ), "folder": os.getcwd()}
        message = (json.dumps(request) + "\n").encode()
        sent = socket.send_fds(self._socket, [message], list(descriptors))
        self._socket.sendall(message[sent:])
        self.pid = self._read_number()

    def _read_number(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            byte = self._socket.recv(1)
            if not byte:
                raise RuntimeError("the warm server has ended")
            line += byte
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
