"""A process with torch and transformers imported, from which the workers of inner runs are forked.

``python warm_server.py SOCKET``; ends when its standard input does. A worker that is started as
usual imports for seven of the nine seconds that an inner run takes. Forked here it finds the
modules in place, and is else what a new process would be: with descriptors, environment, folder
and import path of its own. nnsight is not among them, whose import is a matter of our tests.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import types

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
)


def main(path: str) -> None:
    """Fork a worker for each connection, and tell it how the worker ended."""
    own_path = [entry for entry in sys.path if entry != os.path.dirname(os.path.abspath(__file__))]
    for name in IMPORTED:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen()
    os.rename(path + ".new", path)
    waiting: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([0, listener], [], [], 0.02)
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


def start(connection: socket.socket, listener: socket.socket, own_path: list[str]) -> int:
    """Fork one worker by what a connection asks for, and send its process id back."""
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


def become(asked: dict[str, object], descriptors: list[int], own_path: list[str]) -> None:
    """Turn into what ``python -u -c CODE`` would be, and end as it would."""
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
        os.close(descriptor)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    environ = dict(asked["environ"])  # type: ignore[call-overload]
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(str(asked["folder"]))
    before = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = ["", *before, *(entry for entry in own_path if entry not in before)]
    sys.argv[:] = ["-c"]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in sys.modules if name.partition(".")[0] == "anyio"]:
        del sys.modules[name]  # whose plugin pytest wants to import itself
    sys.modules["__main__"] = types.ModuleType("__main__")
    code = 0
    try:
        exec(str(asked["code"]), vars(sys.modules["__main__"]))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
