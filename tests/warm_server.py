"""A process with everything imported, from which inner runs of pytest and their workers are forked.

``python warm_server.py SOCKET``; ends when its standard input does. A run that is started as usual
imports for six of the seven seconds that it takes. Forked here it finds the modules in place, and
is else what a new process would be: with arguments, descriptors, environment, folder and import
path of its own, and killed and waited for as such.

What a fork cannot show, and a test of it must start anew: that something is not imported, or is
imported late; the order of imports (nnsight is not among the modules here, and anyio is forgotten
before pytest starts, so these two are as they would be); what depends on the seed of hashes, the
same in all forks; what a library reads from the environment when it is imported (`warm_process`
names these variables: where they differ, a run is started as usual); the end of the interpreter
itself, since a fork leaves once what was registered for its exit has run.
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
    """Imports in a session of pytest, which rewrites assertions of its plugins as it does so."""

    def pytest_sessionstart(self) -> None:
        import pytest_nnsight

        for name in IMPORTED:
            importlib.import_module(name)
        for module in pkgutil.walk_packages(pytest_nnsight.__path__, "pytest_nnsight."):
            importlib.import_module(module.name)


def main(path: str) -> None:
    """Fork a process for each connection, and tell it how the process ended."""
    here = os.path.dirname(os.path.abspath(__file__))
    own_path = [entry for entry in sys.path if entry != here]
    import_all()
    start_workers_here(Path(path))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen()
    os.rename(path + ".new", path)
    gc.collect()
    gc.freeze()  # a collection in a fork would touch, and so copy, every page of it
    waiting: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([0, listener], [], [], 0.01 if waiting else None)
        if 0 in ready and not os.read(0, 1):
            return
        if listener in ready:
            connection = listener.accept()[0]
            pid = start(connection, listener, own_path)
            waiting[pid] = connection
        for pid in list(waiting):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                connection = waiting.pop(pid)
                with contextlib.suppress(OSError):  # whoever asked for it may be gone
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
                connection.close()


def import_all() -> None:
    """Import what inner runs will, by a session of pytest in an empty folder."""
    import pytest

    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        os.chdir(folder)
        quiet = ["-qq", "-p", "no:cacheprovider", "--collect-only"]
        code = pytest.main([*quiet, folder], plugins=[Imports()])
        os.chdir(before)
    if code != pytest.ExitCode.NO_TESTS_COLLECTED:
        sys.exit(f"the warm server could not import: exit code {code}")


def start_workers_here(server: Path) -> None:
    """Let the workers of a forked run be forked too."""
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


def start(connection: socket.socket, listener: socket.socket, own_path: list[str]) -> int:
    """Fork one process by what a connection asks for, and send its process id back."""
    message, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not message.endswith(b"\n"):
        message += connection.recv(1 << 20)
    asked = json.loads(message)
    pid = os.fork()
    if not pid:
        listener.close()
        connection.close()
        become(asked, descriptors, own_path)
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(f"{pid}\n".encode())
    return pid


def become(asked: dict[str, Any], descriptors: list[int], own_path: list[str]) -> None:
    """Turn into what the arguments would have started, and end as it would."""
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
        os.close(descriptor)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(asked["environ"])
    os.chdir(asked["folder"])
    before = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*before, *(entry for entry in own_path if entry not in before)]
    sys.modules["xdist.plugin"]._sys_path[:] = sys.path  # what xdist gives to its workers
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in sys.modules if name.partition(".")[0] == "anyio"]:
        del sys.modules[name]  # whose plugin pytest wants to import itself
    code = 0
    try:
        execute(asked["args"][1:])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)


def execute(args: list[str]) -> None:
    """Do what Python does with these arguments: ``-mpytest ...`` or ``-u -c CODE``."""
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
    """End as an interpreter does, but for freeing what it holds."""
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
