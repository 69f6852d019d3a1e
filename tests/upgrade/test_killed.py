"""``pytest-nnsight upgrade`` is killed while pip installs: the next one starts again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wheels import make_slow_sdist, make_wheel

TEST = """
import drifty
from importlib.metadata import files

def test_it():
    assert drifty.FACTOR == 1.0
    assert [file for file in files("drifty") if not file.locate().exists()] == []
"""
REQUIREMENT = "drifty==2.0"


class Command:
    """The command, started in a project whose only test needs all files of ``drifty``."""

    def __init__(self, project: Path, requirement: str, **environ: str) -> None:
        program = str(Path(sys.executable).with_name("pytest-nnsight"))
        command = [program, "upgrade", f"--with={requirement}", f"--cache={project / 'cache'}"]
        self._stderr = project / f"stderr-{time.monotonic_ns()}"
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [*command, "--", "-q"], cwd=project, env=os.environ | environ, stderr=stderr
            )

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def end(self) -> tuple[int, str]:
        return self.process.wait(timeout=300), self.stderr


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Path]:
    """A file: while it exists, a build that has its path in ``DRIFTY_HOLD`` does not end."""
    path = tmp_path / "hold"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def start(index: Path, tmp_path: Path, hold: Path) -> Iterator[Callable[..., Command]]:
    """Start a `Command`; at the end of the test all are killed."""
    make_slow_sdist(index, "2.0")
    (tmp_path / "test_it.py").write_text(TEST)
    started: list[Command] = []

    def start(requirement: str = REQUIREMENT, **environ: str) -> Command:
        started.append(Command(tmp_path, requirement, **environ))
        return started[-1]

    yield start
    for command in started:
        command.process.kill()
        command.process.wait()


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.parametrize("attempt", range(3))
def test_kill_while_pip_writes_files(
    index: Path, start: Callable[..., Command], tmp_path: Path, attempt: int
) -> None:
    """Its pip is not killed and goes on writing; in a shared folder, files were lost."""
    make_wheel(index, "2.1", "FACTOR = 1.0\n", parts=4000)
    killed = start("drifty==2.1")
    wait_for(lambda: len([*tmp_path.glob("cache/**/drifty_parts/*.py")]) > 300)
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    stderr = "1/1 drifty==2.1: installing drifty==2.1 ... running ... passed\n"
    assert start("drifty==2.1").end() == (0, stderr)
    assert start("drifty==2.1").end() == (0, "1/1 drifty==2.1: running ... passed\n")


@pytest.mark.long
def test_second_command_waits_for_the_first(start: Callable[..., Command], hold: Path) -> None:
    """It says what it waits for, and uses the environment of the first."""
    first = start(DRIFTY_HOLD=str(hold))
    wait_for(hold.with_name("hold.begun").exists)
    second = start()
    waiting = f"1/1 {REQUIREMENT}: waiting for another process that makes it ... "
    wait_for(lambda: second.stderr == waiting)
    hold.unlink()
    assert first.end() == (
        0,
        f"1/1 {REQUIREMENT}: installing {REQUIREMENT} ... running ... passed\n",
    )
    assert second.end() == (0, f"{waiting}running ... passed\n")
