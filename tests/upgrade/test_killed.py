"""``pytest-nnsight upgrade`` is killed while pip installs: the next run takes nothing of it."""

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
WISH = "drifty==2.0"


class Command:
    """The command, started in a project whose only test passes with a whole ``drifty``."""

    def __init__(self, project: Path, wish: str, **environ: str) -> None:
        program = str(Path(sys.executable).with_name("pytest-nnsight"))
        command = [program, "upgrade", f"--with={wish}", f"--cache={project / 'cache'}"]
        self._said = project / f"said-{time.monotonic_ns()}"
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [*command, "--", "-q"], cwd=project, env=os.environ | environ, stderr=said
            )

    @property
    def said(self) -> str:
        return self._said.read_text()

    def end(self) -> tuple[int, str]:
        return self.process.wait(timeout=300), self.said


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Path]:
    """A file: as long as it is there, who was told of it goes on building."""
    path = tmp_path / "hold"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def start(index: Path, tmp_path: Path, hold: Path) -> Iterator[Callable[..., Command]]:
    """Start `Command`; none is left over."""
    make_slow_sdist(index, "2.0")
    (tmp_path / "test_it.py").write_text(TEST)
    started: list[Command] = []

    def start(wish: str = WISH, **environ: str) -> Command:
        started.append(Command(tmp_path, wish, **environ))
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
def test_killed_while_pip_writes_files(
    index: Path, start: Callable[..., Command], tmp_path: Path, attempt: int
) -> None:
    """Its pip lives on, and goes on writing; where both wrote into one folder, parts were lost."""
    make_wheel(index, "2.1", "FACTOR = 1.0\n", parts=4000)
    killed = start("drifty==2.1")
    wait_for(lambda: len([*tmp_path.glob("cache/**/drifty_parts/*.py")]) > 300)
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    said = "1/1 drifty==2.1: installing drifty==2.1 ... running ... passed\n"
    assert start("drifty==2.1").end() == (0, said)
    assert start("drifty==2.1").end() == (0, "1/1 drifty==2.1: running ... passed\n")


@pytest.mark.long
def test_two_at_once(start: Callable[..., Command], hold: Path) -> None:
    """The second says what it waits for, and uses what the first has made."""
    first = start(DRIFTY_HOLD=str(hold))
    wait_for(hold.with_name("hold.begun").exists)
    second = start()
    waiting = f"1/1 {WISH}: another process is making it, waiting ... "
    wait_for(lambda: second.said == waiting)
    hold.unlink()
    assert first.end() == (0, f"1/1 {WISH}: installing {WISH} ... running ... passed\n")
    assert second.end() == (0, f"{waiting}running ... passed\n")
