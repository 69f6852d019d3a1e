"""A warm process that runs of pytest are forked from, where their imports are not the subject."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from warm_process import WarmProcess, WarmServer, read_at_start

# They measure small tensors: on shared cores, threads that wait for each other are 10 times slower.
ON_ONE_THREAD = ("summary", "compare", "diagnose", "golden", "report")


@pytest.fixture(autouse=True, scope="module")
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Measure on one thread in these folders; restore it, since other tests run in this process."""
    if request.path.parent.name not in ON_ONE_THREAD:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cold", action="store_true", help="fork no run of pytest inside of a test")


@pytest.fixture(scope="session")
def warm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmServer]:
    """A process with everything imported, which forks runs of pytest."""
    folder = tmp_path_factory.mktemp("warm")
    environ = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    server = WarmServer(folder / "socket", folder / "home", read_at_start(environ))
    program = str(Path(__file__).with_name("warm_server.py"))
    process = subprocess.Popen(
        [sys.executable, program, str(server.socket)], stdin=subprocess.PIPE, env=environ
    )
    while not server.socket.exists():
        assert process.poll() is None
        time.sleep(0.05)
    yield server
    process.communicate()


@pytest.fixture
def warm(
    request: pytest.FixtureRequest,
    pytester: pytest.Pytester,
    warm_server: WarmServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Let runs of pytest, and their workers, be forked: see `warm_server.py` for what that hides.

    A run with other variables of those that are read once, at start, is started as usual; so are
    all runs with ``--cold``.
    """
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(warm_server.home))
    start, is_cold = pytester.popen, request.config.getoption("--cold")

    def popen(args: Sequence[str], **wanted: Any) -> Any:
        is_alike = read_at_start(os.environ) == warm_server.known
        if is_cold or not is_alike or args[:2] != (sys.executable, "-mpytest"):
            return start(args, **wanted)
        assert wanted.pop("stdin") is pytester.CLOSE_STDIN
        path = [os.getcwd(), os.environ.get("PYTHONPATH", "")]
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        with open(os.devnull) as nothing:
            numbers = [file.fileno() for file in (nothing, wanted["stdout"], wanted["stderr"])]
            return WarmProcess(warm_server.socket, args, numbers, environ)

    monkeypatch.setattr(pytester, "popen", popen)


@pytest.fixture
def hub(warm: None, warm_server: WarmServer) -> Iterator[Path]:
    """The cache of the model hub that a forked run looks into, empty."""
    shutil.rmtree(warm_server.home, ignore_errors=True)
    yield warm_server.home / "hub"
    shutil.rmtree(warm_server.home, ignore_errors=True)
