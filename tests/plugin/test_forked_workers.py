"""Two workers and more share what importing torch and transformers takes: they are forked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from project import TINY, Project

from pytest_nnsight.forking import nodes, server, staleness

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone"),
    pytest.mark.skipif(nodes.has_accelerator(), reason="and not beside an accelerator"),
]

SPY = """
import json, os, pathlib, random, sys

def pytest_configure(config):
    if hasattr(config, "workerinput"):
        heavy = [name for name in ("torch", "transformers", "nnsight") if name in sys.modules]
        name = os.environ["PYTEST_XDIST_WORKER"]
        drawn = [sys.modules["numpy"].random.random(), random.random()] if heavy else [0, 0]
        files = [os.readlink(file) for file in pathlib.Path("/proc/self/fd").iterdir()
                 if file.is_symlink()]
        sockets = sum(file.startswith("socket:") for file in files)
        told = [os.getppid(), heavy, sockets, *drawn]
        pathlib.Path(f"{name}.new").write_text(json.dumps(told))
        os.rename(f"{name}.new", f"{name}.worker")
"""
TEST = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_run(nnsight_capture, nnsight_golden, number):
    assert nnsight_capture.trace("Hello") == nnsight_golden
    assert nnsight_capture.generate("Hello", max_new_tokens=3) == nnsight_golden(name="generated")
"""
IMPORTED = ["torch", "transformers"]
STRICT = ("-W", "error::pytest.PytestAssertRewriteWarning", "-p", "no:hypothesispytest")


@pytest.fixture
def spied(project: Project) -> Project:
    """A project whose workers tell who started them, and what was imported by then."""
    (project.path / "conftest.py").write_text(SPY)
    (project.path / "test_it.py").write_text(TEST)
    return project


@dataclass(frozen=True)
class Worker:
    """Who started a worker, what it found imported, open sockets, what it draws by either."""

    parent: int
    imported: list[str]
    sockets: int
    by_numpy: float
    by_python: float


def workers(project: Project) -> list[Worker]:
    """Return the workers that have begun, in their order."""
    return [Worker(*json.loads(p.read_text())) for p in sorted(project.path.glob("*.worker"))]


def test_two_workers_are_forked_and_write_what_one_does(spied: Project) -> None:
    """A worker of its own accord imports; those that are forked have it, and the same values."""
    spied.run(*TINY, "--snapshot-update").assert_outcomes(passed=4)
    (alone,) = workers(spied)
    assert alone.imported == []
    written = spied.goldens()
    result = spied.run(*TINY, *STRICT, "--snapshot-update", "-n", "2")
    result.assert_outcomes(passed=4)
    one, other = workers(spied)
    assert one.imported == other.imported == IMPORTED
    assert one.parent == other.parent
    assert one.sockets == other.sockets == 0
    assert one.by_numpy != other.by_numpy
    assert one.by_python != other.by_python
    assert spied.goldens() == written


def test_a_worker_that_would_import_other_libraries_is_replaced(project: Project) -> None:
    """By the libraries, which read a variable as they are imported, a test file can tell."""
    project.test_file(
        """
os.environ["HF_HOME"] = "/elsewhere"

@pytest.mark.parametrize("number", range(4))
def test_home(nnsight_model, number):
    from huggingface_hub import constants
    assert constants.HF_HOME == "/elsewhere"
"""
    )
    result = project.run(*TINY, "-n", "2")
    result.assert_outcomes(passed=4)
    assert result.ret == 0
    result.stderr.fnmatch_lines(
        ["nnsight: a worker starts anew, since tests change $HF_HOME: it was forked before"]
    )


def test_a_forked_worker_that_dies_is_reported_as_any_other(project: Project) -> None:
    """By signal and by exit code; the one in its place imports for itself."""
    (project.path / "conftest.py").write_text(SPY)
    project.test_file(
        """
import ctypes, signal

@pytest.mark.parametrize("death", ["segfault", "kill", "exit"])
def test_dies(death):
    {"segfault": lambda: ctypes.string_at(0), "exit": lambda: os._exit(3),
     "kill": lambda: os.kill(os.getpid(), signal.SIGKILL)}[death]()

def test_lives(nnsight_capture):
    assert nnsight_capture.trace("Hello").calls
"""
    )
    result = project.run(*TINY, "-n", "2")
    assert result.ret == 1
    result.assert_outcomes(failed=3, passed=1)
    for name, title in {
        "segfault": "CRASHED: segmentation fault",
        "kill": "KILLED (out of memory?)",
        "exit": "EXITED 3",
    }.items():
        result.stdout.fnmatch_lines([f"FAILED test_it.py::test_dies[[]{name}] - {title}*"])
    assert [each.imported for each in workers(project)] == [IMPORTED] * 2 + [[]] * 3


@pytest.mark.parametrize("library", ["raises", "starts_a_thread", "hangs"])
def test_where_nothing_can_be_forked_workers_start_as_usual(spied: Project, library: str) -> None:
    """pytest-xdist's own Python takes its place, at once or when loading has taken too long."""
    code = {
        "raises": "1 / 0",
        "starts_a_thread": "import threading\nthreading.Thread(target=sleep, args=[9]).start()",
        "hangs": "sleep(100)",
    }[library]
    (spied.path / f"{library}.py").write_text(f"from time import sleep\n{code}\n")
    source = f"import pytest_nnsight.forking.nodes as nodes; nodes.MODULES = ['torch', {library!r}]"
    (spied.path / "conftest.py").write_text(f"{source}\n{SPY}")
    options = ("--nnsight-load-timeout=15", "--snapshot-update", "-n", "2")
    spied.run(*TINY, *options).assert_outcomes(passed=4)
    assert [each.imported for each in workers(spied)] == [[], []]


def test_with_the_plugin_left_out_workers_start_as_usual(spied: Project) -> None:
    options = ("-p", "no:nnsight-forked-workers", "--snapshot-update", "-n", "2")
    spied.run(*TINY, *options).assert_outcomes(passed=4)
    assert [each.imported for each in workers(spied)] == [[], []]


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_nothing_outlives_pytest(project: Project, ends: signal.Signals) -> None:
    """Whether it was interrupted, with all that it has started, or killed alone.

    A worker that lets nothing else run, as code in C may, hears of neither by itself.
    """
    sleep = "time.sleep(100)" if ends == signal.SIGINT else "ctypes.PyDLL(None).sleep(100)"
    running = begin(project, sleep)
    assert in_group(running.pid) > 5  # pytest, the server, two launchers, two workers
    send = os.killpg if ends == signal.SIGINT else os.kill
    send(running.pid, ends)
    running.communicate(timeout=60)
    assert running.returncode == (2 if ends == signal.SIGINT else -signal.SIGKILL)
    wait_until(lambda: in_group(running.pid) == 0)


def test_a_launcher_that_is_killed_takes_its_worker_along(project: Project) -> None:
    """That is how pytest-xdist ends a worker that does not end by itself."""
    running = begin(project, "time.sleep(100)")
    for launcher in launchers(running.pid):
        os.kill(launcher, signal.SIGKILL)
    assert "test_sleeps - KILLED (out of memory?)" in running.communicate(timeout=60)[0]
    wait_until(lambda: in_group(running.pid) == 0)


def begin(project: Project, line: str) -> subprocess.Popen[str]:
    """Start a session of two workers, in a group of its own, with a test of one line."""
    project.test_file(f"import ctypes, time\ndef test_sleeps():\n    {line}\n")
    (project.path / "conftest.py").write_text(SPY)
    command = [sys.executable, "-m", "pytest", *TINY, "-n", "2", "-p", "no:cacheprovider"]
    running = subprocess.Popen(
        command, cwd=project.path, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    wait_until(lambda: len(workers(project)) == 2)
    time.sleep(1)  # until the test has begun
    return running


def launchers(group: int) -> list[int]:
    """Return the processes of a group that wait for a worker."""
    lines = told_of_processes("cmdline")
    found = [process for process, line in lines.items() if b"/forking/launcher.py" in line]
    return [process for process in found if os.getpgid(process) == group]


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for a minute at most."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def in_group(group: int) -> int:
    """Count the processes of a group that have not ended."""
    stats = told_of_processes("stat").values()
    fields = [text.rpartition(b")")[2].split() for text in stats]
    return sum(int(of[2]) == group and of[0] != b"Z" for of in fields)


def told_of_processes(file: str) -> dict[int, bytes]:
    """Return what Linux tells of each process in a file; of those that end meanwhile nothing."""
    told: dict[int, bytes] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told[int(folder.name)] = (folder / file).read_bytes()
    return told


POPEN = {"popen": True, "python": None, "via": None, "chdir": None}


@pytest.mark.parametrize(
    ("specs", "goes"),
    [
        ([POPEN, POPEN], True),
        ([POPEN], False),
        ([POPEN, POPEN | {"popen": None}], False),
        ([POPEN, POPEN | {"python": "python3.12"}], False),
        ([POPEN, POPEN | {"via": "proxy"}], False),
        ([POPEN, POPEN | {"chdir": "elsewhere"}], False),
    ],
    ids=["two", "one", "by ssh", "another Python", "via a proxy", "in another folder"],
)
def test_usual_workers_are_forked_alone(
    specs: list[dict[str, object]], goes: bool, pytestconfig: pytest.Config
) -> None:
    found = [SimpleNamespace(**spec) for spec in specs]
    assert nodes._can_fork(pytestconfig, found) is goes


def test_beside_an_accelerator_nothing_is_forked(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver does not bear it. There is none here: a file that is there stands for its own."""
    found = [SimpleNamespace(**POPEN)] * 2
    monkeypatch.setattr(nodes, "_ACCELERATORS", ("null",))
    assert not nodes._can_fork(pytestconfig, found)


def test_where_linux_tells_of_no_end_nothing_is_forked(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a sandbox. This one has it: a function that raises as there stands for it."""

    def refused(process: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refused)
    assert not nodes._can_fork(pytestconfig, [SimpleNamespace(**POPEN)] * 2)


def test_measured_for_coverage_nothing_is_forked(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest-cov is not installed here: a plugin of its name stands for it."""
    pytestconfig.pluginmanager.register(object(), "_cov")
    try:
        assert not nodes._can_fork(pytestconfig, [SimpleNamespace(**POPEN)] * 2)
    finally:
        pytestconfig.pluginmanager.unregister(name="_cov")


def test_where_a_socket_would_have_too_long_a_path_nothing_is_forked(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    deep = tmp_path / ("a" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    specs, plugin = [SimpleNamespace(**POPEN) for _ in range(2)], nodes.ForkedWorkers(9.0)
    plugin.pytest_xdist_setupnodes(pytestconfig, specs)
    plugin.pytest_unconfigure()
    assert [spec.python for spec in specs] == [None, None]
    assert [*deep.iterdir()] == []


def test_a_forked_worker_writes_no_bytecode_where_the_environment_says_so(
    spied: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    spied.run(*TINY, "--snapshot-update", "-n", "2").assert_outcomes(passed=4)
    assert [each.imported for each in workers(spied)] == [IMPORTED] * 2
    assert not [*spied.path.rglob("*.pyc")]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a worker that was forked just now."""
    monkeypatch.setattr(server, "imported_in", dict(os.environ))
    monkeypatch.setattr(staleness, "LIBRARIES", ("json",))


def test_nothing_has_changed_for_a_worker_just_forked(forked: None) -> None:
    assert not staleness.what_changed()


def test_what_a_worker_would_import_otherwise_is_named(
    forked: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTEST_OWN", "1")
    monkeypatch.setenv("HF_HOME", "elsewhere")
    monkeypatch.delenv("PATH")
    (tmp_path / "json.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert staleness.what_changed() == "$HF_HOME, $PATH, the place of json"


def test_a_worker_that_was_not_forked_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "elsewhere")
    assert not staleness.what_changed()
