"""A process that has imported everything and forks inner runs of pytest and their workers.

``python warm_server.py SOCKET``; it ends when its standard input closes. A run in a new process
spends six of its seven seconds on imports. A fork has the modules already. Otherwise it behaves
like a new process: it has its own arguments, file descriptors, environment, working folder and
import path, and its parent can wait for it and kill it.

A fork cannot test these things, start a new process for them:
- that a module is not imported, or is imported late;
- the order of imports. The server does not import nnsight, and removes anyio before pytest starts,
  so for these two the order is that of a new process;
- anything that depends on the hash seed, which is the same in all forks;
- variables that a library reads when it is imported (`warm_process.STARTUP_PREFIXES`; if one of
  them differs, the run starts as a new process);
- the shutdown of the interpreter: a fork runs the exit functions and then calls ``os._exit``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

IMPORTED = (
    "torch",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
    "transformers.models.bert.modeling_bert",
    "transformers.models.t5.modeling_t5",
    "transformers.tokenization_utils_fast",
    "accelerate",
    "hypothesis",
    "pydantic.main",
)


class Imports:
    """A pytest plugin that imports: inside a session pytest rewrites the assertions of plugins."""

    def pytest_sessionstart(self) -> None:
        import pytest_nnsight

        for name in IMPORTED:
            importlib.import_module(name)
        for module in pkgutil.walk_packages(pytest_nnsight.__path__, "pytest_nnsight."):
            importlib.import_module(module.name)


def main(path: str) -> None:
    """Fork a process for each connection, and send its exit code when it ends."""
    here = os.path.dirname(os.path.abspath(__file__))
    import_path = [entry for entry in sys.path if entry != here]
    import_all()
    fork_xdist_workers(Path(path))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen()
    os.rename(path + ".new", path)
    gc.collect()
    gc.freeze()  # a collection in a fork would write to every page, and so copy it
    waiting: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([0, listener], [], [], 0.01 if waiting else None)
        if 0 in ready and not os.read(0, 1):
            return
        if listener in ready:
            connection = listener.accept()[0]
            pid = start(connection, listener, import_path)
            waiting[pid] = connection
        for pid in list(waiting):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                connection = waiting.pop(pid)
                with contextlib.suppress(OSError):  # the client may have ended
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                connection.close()


def import_all() -> None:
    """Import what inner runs import: run pytest in an empty folder."""
    import pytest

    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        os.chdir(folder)
        quiet = ["-qq", "-p", "no:cacheprovider", "--collect-only"]
        code = pytest.main([*quiet, folder], plugins=[Imports()])
        os.chdir(before)
    if code != pytest.ExitCode.NO_TESTS_COLLECTED:
        sys.exit(f"the warm server could not import: exit code {code}")


def fork_xdist_workers(server: Path) -> None:
    """Fork the xdist workers of forked runs too: replace how execnet starts a process."""
    from execnet import gateway_io
    from warm_process import WarmProcess

    def start(self: Any, args: list[str], execmodel: Any) -> None:
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()
        self.popen = WarmProcess(server, args, [read_in, write_out, 2], os.environ)
        os.close(read_in)
        os.close(write_out)
        pipes = os.fdopen(write_in, "wb"), os.fdopen(read_out, "rb")
        gateway_io.Popen2IO.__init__(self, *pipes, execmodel=execmodel)

    gateway_io.Popen2IOMaster.__init__ = start  # type: ignore[method-assign]


def start(connection: socket.socket, listener: socket.socket, import_path: list[str]) -> int:
    """Fork the process that a connection requests, and send its process id."""
    message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not message.endswith(b"\n"):
        message += connection.recv(1 << 20)
    request = json.loads(message)
    pid = os.fork()
    if not pid:
        listener.close()
        connection.close()
        become(request, descriptors, import_path)
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(f"{pid}\n".encode())
    return pid


def become(request: dict[str, Any], descriptors: list[int], import_path: list[str]) -> None:
    """Become the requested process: set its state, run it, exit with its code."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["folder"])
    first = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*first, *(entry for entry in import_path if entry not in first)]
    sys.modules["xdist.plugin"]._sys_path[:] = sys.path  # xdist sends this path to its workers
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in sys.modules if name.partition(".")[0] == "anyio"]:
        del sys.modules[name]  # pytest must import its plugin itself
    code = 0
    try:
        execute(request["args"][1:])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)


def execute(args: list[str]) -> None:
    """Run what Python runs with these arguments: ``-mpytest ...`` or ``-u -c CODE``."""
    if args[0] == "-mpytest":
        sys.path.insert(0, os.getcwd())
        sys.argv[:] = args
        runpy.run_module("pytest", run_name="__main__", alter_sys=True)
        return
    sys.path.insert(0, "")
    sys.argv[:] = ["-c"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    exec(args[-1], vars(sys.modules["__main__"]))


def leave(code: int) -> None:
    """Exit as an interpreter does, but do not free its objects."""
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
