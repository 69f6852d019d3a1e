"""The plugin object of the process that hands out tests: it has workers forked, where that goes."""

from __future__ import annotations

import glob
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

# What a run imports; of torch and transformers nearly all that is not for one architecture alone.
MODULES = (
    "pytest",
    "torch",
    "transformers.modeling_utils",
    "transformers.generation.utils",
    "transformers.models.auto",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.pipelines.text_generation",
)
_FOLDER = Path(__file__).parent
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "dxg", "accel*")  # in /dev, for drivers that bear no fork
_WAIT = 0.5  # seconds; it may be importing yet, which nothing breaks off


class ForkedWorkers:
    """Has two workers and more forked from one process, which has imported the libraries.

    It has so many ``seconds`` for that, then each worker imports them itself, within its own limit.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._folder: Path | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_setupnodes(self, config: pytest.Config, specs: list[Any]) -> None:
        """Tell pytest-xdist what to start in place of Python."""
        if not _can_fork(config, specs):
            return
        self._folder = Path(tempfile.mkdtemp(prefix="pytest-nnsight-"))
        address = str(self._folder / "server")
        with socket.socket(socket.AF_UNIX) as listening:
            try:
                listening.bind(address)
            except OSError:  # the path of the temporary folder is too long
                return
            listening.listen()
            self._start(listening.fileno(), len(specs))
        script = str(_FOLDER / "launcher.py")
        words = [sys.executable, "-I", "-S", script, address, str(self._seconds)]
        for spec in specs:
            spec.python = shlex.join(words)

    def _start(self, listening: int, count: int) -> None:
        given = {"path": sys.path, "modules": MODULES, "listening": listening, "count": count}
        self._server = subprocess.Popen(
            [sys.executable, "-u", str(_FOLDER / "server.py"), json.dumps(given)],
            pass_fds=[listening],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @pytest.hookimpl
    def pytest_unconfigure(self) -> None:
        """End the server, and with it what it has forked."""
        if self._server is not None:
            try:
                self._server.communicate(timeout=_WAIT)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _can_fork(config: pytest.Config, specs: list[Any]) -> bool:
    """Tell whether workers may be forked, and there is something to share.

    What is imported before a worker begins is not seen by one that measures coverage.
    """
    is_usual = all(spec.popen and not (spec.python or spec.via or spec.chdir) for spec in specs)
    is_covered = config.pluginmanager.hasplugin("_cov")
    return len(specs) > 1 and is_usual and _is_able() and not has_accelerator() and not is_covered


def has_accelerator() -> bool:
    """Tell by the files of its device; torch, which could say more, is not imported here."""
    return any(glob.glob(f"/dev/{name}") for name in _ACCELERATORS)


def _is_able() -> bool:
    """Tell whether this system has what `reaper` needs: Linux, but not within every sandbox."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True
