"""The plugin of an inner run whose workers are forked by `warm_server`, ``-p warm_workers``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from typing import Any

from execnet import gateway_io

SOCKET = "WARM_SOCKET"


class WarmPopen:
    """What execnet and the plugin need of a `subprocess.Popen`, for a worker that was forked."""

    def __init__(self, args: list[str]) -> None:
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()
        self.stdin, self.stdout = os.fdopen(write_in, "wb"), os.fdopen(read_out, "rb")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(os.environ[SOCKET])
        asked = {"code": args[-1], "environ": dict(os.environ), "folder": os.getcwd()}
        message = (json.dumps(asked) + "\n").encode()
        sent = socket.send_fds(self._socket, [message], [read_in, write_out, 2])
        self._socket.sendall(message[sent:])
        os.close(read_in)
        os.close(write_out)
        self._answer = self._socket.makefile()
        self.pid = int(self._answer.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._socket.settimeout(timeout)
            try:
                self.returncode = int(self._answer.readline())
            except TimeoutError:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0) from None
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0.001)
        except subprocess.TimeoutExpired:
            self._answer = self._socket.makefile()  # one that has timed out reads no more
            return None

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGTERM)


def _start(self: Any, args: list[str], execmodel: Any) -> None:
    self.popen = WarmPopen(args)
    gateway_io.Popen2IO.__init__(self, self.popen.stdin, self.popen.stdout, execmodel=execmodel)


gateway_io.Popen2IOMaster.__init__ = _start  # type: ignore[method-assign]
