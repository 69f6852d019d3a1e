"""Import the libraries once, fork as many Pythons as are asked for, and become `reaper`.

A script of the standard library, until it has imported what it was told to; run by ``python -u``,
as what it forks is to be. Its argument is JSON: what `serve` takes. It ends with its stdin. It
forks nothing, and ends, where that would not be safe: beside threads, and with an accelerator,
whose driver does not bear a fork behind it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import types
import warnings
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

NAME = "pytest_nnsight.forking.server"
"""What this module is called in a process that was forked, whose ``__main__`` is another."""
imported_in: dict[str, str] = {}
"""The environment in which the libraries were imported; empty where nothing was forked."""


class Forked(BaseException):
    """Raised in a forked process, to leave the server's frames; says what it is to run."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments


def prepare(path: list[str], modules: list[str]) -> None:
    """Import modules, and leave them as they are for all that is forked."""
    sys.path[:] = path
    gc.disable()
    for module in modules:
        importlib.import_module(module)
    _leave_to_pytest()
    gc.freeze()
    imported_in.update(os.environ)


def _leave_to_pytest() -> None:
    """Have pytest not warn that it cannot rewrite the assertions of plugins imported by now.

    It reads that in a docstring. transformers imports anyio, which comes with a plugin.
    """
    for found in metadata.distributions():
        if any(point.group == "pytest11" for point in found.entry_points):
            for name in {file.parts[0].removesuffix(".py") for file in found.files or ()}:
                if name in sys.modules:
                    module = sys.modules[name]
                    module.__doc__ = f"{module.__doc__ or ''}\n\nPYTEST_DONT_REWRITE"


def can_fork() -> bool:
    """Tell whether what was imported has started nothing that a fork would break."""
    torch: Any = sys.modules["torch"]
    accelerators = [torch.cuda, torch.backends.mps, getattr(torch, "accelerator", torch.cuda)]
    return threading.active_count() == 1 and not any(kind.is_available() for kind in accelerators)


def fork(listening: socket.socket) -> tuple[int, socket.socket] | None:
    """Fork for the next who asks; return the process and the connection to who waits for its end.

    Nothing where that one has gone. Raise `Forked` in the process that is forked.
    """
    door = listening.fileno()
    if door not in select.select([door, 0], [], [])[0]:  # stdin has ended, and with it pytest
        _end()
    connection = listening.accept()[0]
    try:
        connection.sendall(b"ready\n")  # who does not wait any longer does not answer
        streams = socket.recv_fds(connection, 1, 3)[1]
        with connection.makefile() as lines:
            arguments = json.loads(lines.readline())
    except (OSError, ValueError):
        return None
    with warnings.catch_warnings(action="ignore"):  # of threads of BLAS, which sees to its own
        process = os.fork()
    if process == 0:
        connection.close()
        _become(streams)
        raise Forked(arguments)
    for stream in streams:
        os.close(stream)
    with suppress(OSError):
        connection.sendall(b"forked\n")
    return process, connection


def reap(forked: list[tuple[int, socket.socket]]) -> NoReturn:
    """Become the process that tells how those that were forked end: a small one, their parent."""
    for _, connection in forked:
        connection.set_inheritable(True)
    waiting = {process: connection.fileno() for process, connection in forked}
    script = Path(__file__).with_name("reaper.py")
    os.execv(sys.executable, [sys.executable, "-I", "-S", str(script), json.dumps(waiting)])


def _become(streams: list[int]) -> None:
    """Take over the streams of who asked for a process; all else it has in common with this one."""
    for stream, given in enumerate(streams):
        os.dup2(given, stream)
        os.close(given)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.modules["numpy"].random.seed()  # or each process would draw the same
    gc.enable()


def run(arguments: list[str]) -> None:
    """Run what ``python -u -c CODE`` would, ``-B`` as well."""
    sys.argv = ["-c"]
    sys.dont_write_bytecode |= "-B" in arguments  # what the environment says holds here too
    main = types.ModuleType("__main__")
    sys.modules[NAME], sys.modules["__main__"] = sys.modules["__main__"], main
    exec(arguments[-1], vars(main))


def serve(path: list[str], modules: list[str], listening: int, count: int) -> list[str]:
    """Serve; return the arguments for a Python in each process that is forked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which ends this
    with socket.socket(fileno=listening) as door:
        prepare(path, modules)
        if not can_fork():
            _end()
        forked: list[tuple[int, socket.socket]] = []
        try:
            for _ in range(count):
                if (started := fork(door)) is not None:
                    forked.append(started)
        except Forked as process:
            for _, connection in forked:
                connection.close()
            return process.arguments
    reap(forked)


def _end() -> NoReturn:
    os._exit(0)  # to clear torch away would take a second


if __name__ == "__main__":
    run(serve(**json.loads(sys.argv[1])))
