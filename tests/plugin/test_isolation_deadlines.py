"""The controller kills a worker that is stopped or that has no timers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from project import TINY, Project

STOP = "import os, signal\ndef stop(): os.kill(os.getpid(), signal.SIGSTOP)\n"
IN_WORKER = "import os\nIS_WORKER = 'PYTEST_XDIST_WORKER' in os.environ\n"
LIMITS = ("--nnsight-timeout=2", "--nnsight-load-timeout=8")
LIVES = "def test_lives(): pass\n"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="stops processes by signals")


@pytest.fixture(autouse=True)
def stop(project: Project) -> None:
    """Write a module with a function that stops its process."""
    (project.path / "stop.py").write_text(STOP)


def write(project: Project, source: str, name: str = "test_it.py") -> None:
    (project.path / name).write_text(f"import pytest\nfrom stop import stop\n{source}")


@pytest.mark.parametrize("workers", ["-n1", "-n2", ""])
def test_a_stopped_test_is_a_hang_and_other_tests_run(project: Project, workers: str) -> None:
    write(project, f"def test_stops(): stop()\n{LIVES}")
    result = project.run(*TINY, *LIMITS, *([workers] if workers else []))
    assert result.ret == 1
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_stops - HUNG after 2 s"])
    assert result.duration < 30


@pytest.mark.parametrize("phase", ["setup", "teardown"])
def test_a_fixture_that_stops_is_a_hang(project: Project, phase: str) -> None:
    body = "stop()\n    yield" if phase == "setup" else "yield\n    stop()"
    write(project, f"@pytest.fixture\ndef stops():\n    {body}\ndef test_it(stops): pass\n{LIVES}")
    result = project.run(*TINY, *LIMITS)
    assert result.ret == 1
    result.assert_outcomes(errors=1, passed=1 if phase == "setup" else 2)
    result.stdout.fnmatch_lines([f"ERROR test_it.py::test_it - HUNG after 2 s in {phase}"])


def test_loading_that_stops_is_a_hang(project: Project) -> None:
    (project.path / "conftest.py").write_text(
        "import sys, types\nfrom stop import stop\n"
        "loading = types.ModuleType('loading')\nloading.load = lambda *a: stop()\n"
        "sys.modules['pytest_nnsight.models.loading'] = loading\n"
    )
    write(project, f"def test_it(nnsight_model): pass\n{LIVES}")
    result = project.run(*TINY, "--nnsight-load-timeout=2")
    assert result.ret == 1
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["HUNG after 2 s while loading tiny:gpt2"])


def test_a_test_file_that_stops_is_an_error_that_names_it(project: Project) -> None:
    write(project, "stop()\n")
    result = project.run(*TINY, "--nnsight-load-timeout=2")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["HUNG after 2 s while collecting test_it.py"])


def test_a_worker_that_stops_at_its_start_ends_the_session(project: Project) -> None:
    (project.path / "conftest.py").write_text(
        f"{IN_WORKER}from stop import stop\nif IS_WORKER: stop()\n"
    )
    write(project, LIVES)
    result = project.run(*TINY, "--nnsight-load-timeout=2")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["HUNG after 2 s at its start"])


@pytest.mark.parametrize("where", ["atexit", "pytest_sessionfinish"])
def test_a_worker_that_stops_at_its_end_is_named(project: Project, where: str) -> None:
    stops = (
        "import atexit\natexit.register(stop)\n"
        if where == "atexit"
        else "def pytest_sessionfinish(): stop()\n"
    )
    (project.path / "conftest.py").write_text(
        f"{IN_WORKER}from stop import stop\n"
        "from pytest_nnsight.isolation import limits\nlimits.EXIT_SECONDS = 2.0\n"
        "if IS_WORKER:\n" + "".join(f"    {line}\n" for line in stops.splitlines())
    )
    write(project, LIVES)
    result = project.run(*TINY, *LIMITS)
    assert result.ret == 1
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["worker gw0 HUNG after 2 s at its end"])
    assert result.duration < 30


def test_a_test_that_cancels_every_timer_is_a_hang_with_its_stack(project: Project) -> None:
    write(
        project,
        f"""
import faulthandler, signal, threading, time

def test_cancels():
    faulthandler.cancel_dump_traceback_later()
    signal.setitimer(signal.ITIMER_REAL, 0)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()
    time.sleep(100)

{LIVES}""",
    )
    result = project.run(*TINY, *LIMITS)
    assert result.ret == 1
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.re_match_lines(
        ["HUNG after 2 s$", "stack, innermost first:", ".*line 12, in test_cancels"]
    )


def test_a_limit_of_zero_means_no_limit(project: Project) -> None:
    write(
        project,
        """
import os, subprocess

def test_stops_for_a_while():
    subprocess.Popen(f"sleep 6; kill -CONT {os.getpid()}", shell=True)
    stop()
""",
    )
    result = project.run(*TINY, "--nnsight-timeout=0")
    assert result.ret == 0
    result.assert_outcomes(passed=1)


def test_suspending_the_terminal_kills_no_worker(project: Project) -> None:
    """After Ctrl-Z, the time during which all processes are stopped does not count."""
    write(
        project,
        "import pathlib, time\n"
        "def test_it():\n    pathlib.Path('started').touch()\n    time.sleep(2)\n",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *TINY, "--nnsight-timeout=8"],
        cwd=project.path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (project.path / "started").exists():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(13)
    os.killpg(process.pid, signal.SIGCONT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "1 passed" in output
