"""Fixtures of all tests: a project to run pytest in, and a warm process to fork these runs from.

Python imports every ``conftest.py`` under the same name, so a test cannot import from one. What
tests import, such as `Project`, is in modules next to this file.
"""

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
from project import Project
from warm_process import WarmProcess, WarmServer, startup_variables

ONE_THREAD_FOLDERS = ("summary", "compare", "diagnose", "golden", "report")
"""Tests of small tensors: on shared cores, threads that wait for each other are 10 times slower."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cold", action="store_true", help="start every inner pytest as a new process; fork none"
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the tests of some folders on one torch thread, then restore the number of threads."""
    if request.path.parent.name not in ONE_THREAD_FOLDERS:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project, outside CI and without access to the model hub."""
    for name in list(os.environ):
        if name.startswith("PYTEST_") or name in ("CI", "BUILD_NUMBER", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Project(pytester)


@pytest.fixture(scope="session")
def saved_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny GPT-2 that ``save_pretrained`` wrote, once a session."""
    import torch

    from pytest_nnsight.models import tiny

    folder = tmp_path_factory.mktemp("models") / "my-gpt2"
    model, tokenizer = tiny.build("gpt2", torch.float32, None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def warm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmServer]:
    """A process that has imported everything and forks inner runs of pytest."""
    folder = tmp_path_factory.mktemp("warm")
    environ = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    server = WarmServer(folder / "socket", folder / "home", startup_variables(environ))
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
    """Fork inner runs of pytest and their workers; `warm_server.py` says what this cannot test.

    A run starts as a new process if a variable that libraries read at import differs, or with
    ``--cold``.
    """
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(warm_server.home))
    start, is_cold = pytester.popen, request.config.getoption("--cold")

    def popen(args: Sequence[str], **options: Any) -> Any:
        is_same_start = startup_variables(os.environ) == warm_server.variables
        if is_cold or not is_same_start or args[:2] != (sys.executable, "-mpytest"):
            return start(args, **options)
        assert options.pop("stdin") is pytester.CLOSE_STDIN
        path = [os.getcwd(), os.environ.get("PYTHONPATH", "")]
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        with open(os.devnull) as null:
            descriptors = [file.fileno() for file in (null, options["stdout"], options["stderr"])]
            return WarmProcess(warm_server.socket, args, descriptors, environ)

    monkeypatch.setattr(pytester, "popen", popen)


@pytest.fixture
def hub(warm: None, warm_server: WarmServer) -> Iterator[Path]:
    """The model hub cache that forked runs read; empty before and after the test."""
    shutil.rmtree(warm_server.home, ignore_errors=True)
    yield warm_server.home / "hub"
    shutil.rmtree(warm_server.home, ignore_errors=True)
