"""Processes, pipes and files that tests leave are named or removed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from project import TINY, Project

LIVES = "def test_lives(): pass\n"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks, and ends processes by signals")


@pytest.fixture
def write(project: Project) -> Path:
    """Return the path of the test file, which does not import torch."""
    return project.path / "test_it.py"


@pytest.mark.parametrize(("then", "code"), [("", 0), ("os.abort()", 1)], ids=["ends", "crashes"])
def test_a_child_process_that_still_runs_is_named_and_not_waited_for(
    project: Project, write: Path, then: str, code: int
) -> None:
    write.write_text(
        "import os, time\ndef test_forks():\n"
        "    pid = os.fork()\n    if not pid:\n        time.sleep(100)\n        os._exit(0)\n"
        f"    open('pid', 'w').write(str(pid))\n    {then}\n{LIVES}"
    )
    result = project.run(*TINY)
    pid = int((project.path / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    assert result.ret == code
    result.assert_outcomes(passed=2 - code, failed=code)
    result.stdout.fnmatch_lines(
        ["*nnsight: workers*", f"worker gw0: a child process of a test is still running ({pid})"]
    )
    assert result.duration < 20
    if code:
        result.stdout.fnmatch_lines(["FAILED test_it.py::test_forks - CRASHED: aborted"])


@pytest.mark.parametrize("then", ["", "while True: time.sleep(1)"], ids=["returns", "goes on"])
def test_a_closed_connection_fails_its_test(project: Project, write: Path, then: str) -> None:
    write.write_text(
        f"import os, time\ndef test_closes():\n    os.closerange(3, 256)\n    {then}\n{LIVES}"
    )
    result = project.run(*TINY, "--nnsight-timeout=60", "--nnsight-report=report.json")
    assert result.ret == 1
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["LOST: the worker closed its connection to pytest"])
    assert '"outcome": "crashed"' in (project.path / "report.json").read_text()


def test_closing_stdin_and_stdout_is_not_a_failure(project: Project, write: Path) -> None:
    write.write_text(f"import os\ndef test_closes():\n    os.close(0)\n    os.close(1)\n{LIVES}")
    result = project.run(*TINY)
    assert result.ret == 0
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_killed_controller_leaves_only_the_temporary_folder_of_pytest(
    project: Project, write: Path, name: str
) -> None:
    """pytest removes that folder after three more sessions."""
    folder = project.path / "tmp"
    folder.mkdir()
    write.write_text("import time\ndef test_it():\n    open('started', 'w')\n    time.sleep(3)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *TINY],
        cwd=project.path,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup ignores it
    )
    while not (project.path / "started").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.Signals[name])
    assert process.wait(60) == -signal.Signals[name]
    assert [path.name.partition("-of-")[0] for path in folder.iterdir()] == ["pytest"]


def test_a_session_removes_the_state_files_of_its_workers(project: Project, write: Path) -> None:
    write.write_text(LIVES)
    project.run(*TINY, "--basetemp=base").assert_outcomes(passed=1)
    assert not list((project.path / "base").glob("nnsight*"))


FULL = """
mount -t tmpfs -o size=64k none {folder} || exit 77
head -c 61440 /dev/zero > {folder}/full
TMPDIR={folder} exec {python} -m pytest --nnsight-model=tiny:gpt2 -p no:cacheprovider
"""


def test_a_full_temporary_folder_is_one_clear_line(project: Project, write: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a small file system")
    write.write_text(LIVES)
    folder = project.path / "tmp"
    folder.mkdir()
    script = FULL.format(folder=folder, python=sys.executable)
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        cwd=project.path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode in (1, 77) and "pytest" not in done.stdout:
        pytest.skip(f"cannot mount a file system here: {done.stderr}")
    assert done.returncode == 4, done.stdout
    line = next(line for line in done.stderr.splitlines() if line.startswith("Exit:"))
    assert line.startswith(f"Exit: no room for the state of a worker in {folder}/")
    assert line.endswith(
        "(No space left on device): make room there, or set TMPDIR to another folder"
    )


def test_a_worker_may_take_13_seconds_to_end(project: Project, write: Path) -> None:
    """It may on a busy machine; xdist alone would kill it after 10 seconds."""
    write.write_text("import atexit, time\ndef test_it(): atexit.register(time.sleep, 13)\n")
    result = project.run(*TINY)
    assert result.ret == 0
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*at its end*")
