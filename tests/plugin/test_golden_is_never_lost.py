"""No golden is lost in any of the ways in which a snapshot plugin can lose one.

Each test runs twice: with this plugin, and with the default behaviour of syrupy (``STOCK``). There
the golden must be lost or damaged, which proves that the test can fail.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from project import TINY, Project

from pytest_nnsight.golden.document import decode

pytestmark = pytest.mark.usefixtures("warm")
TESTS = """
def test_one(nnsight_capture, nnsight_golden):
    if "FAIL" in os.environ:
        raise RuntimeError("before the assertion")
    if "CRASH" in os.environ:
        os.kill(os.getpid(), 9)
    assert nnsight_capture.trace(os.environ.get("PROMPT", "One")) == nnsight_golden
    if "LATE" in os.environ:
        raise RuntimeError("after the assertion")

def test_two(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Two") == nnsight_golden
"""
STOCK = """
import os
from pathlib import Path
from syrupy.extensions.base import AbstractSyrupyExtension
from syrupy.extensions.single_file import SingleFileSnapshotExtension
from pytest_nnsight.golden import assertion
from pytest_nnsight.golden.document import encode

Stock = assertion.GoldenExtension
Stock.discover_snapshots = AbstractSyrupyExtension.discover_snapshots
Stock.delete_snapshots = SingleFileSnapshotExtension.delete_snapshots

def write(cls, *, snapshot_location, snapshots, **_):
    Path(snapshot_location).parent.mkdir(parents=True, exist_ok=True)
    Path(snapshot_location).write_text(encode(snapshots[0][0]))

Stock.write_snapshot = classmethod(write)
if "TOP" in os.environ:
    Stock.dirname = classmethod(lambda cls, *, test_location: str(cls.context.folder))
"""


@pytest.fixture(params=["ours", "stock"])
def keeps_goldens(request: pytest.FixtureRequest, project: Project) -> bool:
    """Write two goldens, and return whether the test must leave both of them intact."""
    project.test_file(TESTS)
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=2)
    if request.param == "stock":
        project.pytester.makeconftest(STOCK)
    return request.param == "ours"


def test_a_failure_before_the_assertion_loses_no_golden(
    project: Project, keeps_goldens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.goldens()
    monkeypatch.setenv("FAIL", "1")
    project.run(*TINY, "--snapshot-update").assert_outcomes(failed=1, passed=1)
    assert (project.goldens() == before) is keeps_goldens


def test_a_failure_after_the_assertion_loses_no_golden(
    project: Project, keeps_goldens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.goldens()
    monkeypatch.setenv("LATE", "1")
    monkeypatch.setenv("PROMPT", "Another")
    result = project.run(*TINY, "--snapshot-update")
    result.assert_outcomes(failed=1, passed=1)
    assert (project.goldens() == before) is keeps_goldens
    if keeps_goldens:
        result.stdout.fnmatch_lines(["1 snapshot failed. 1 snapshot passed."])


def test_selecting_one_test_loses_no_golden_of_others(
    project: Project, keeps_goldens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Syrupy loses the other goldens if all of them are in one folder at the top, as ours are."""
    before = project.goldens()
    monkeypatch.setenv("TOP", "1")
    project.run(*TINY, "--snapshot-update", "test_it.py::test_two").assert_outcomes(passed=1)
    assert (before.items() <= project.goldens().items()) is keeps_goldens


def test_a_killed_worker_loses_no_golden(
    project: Project, keeps_goldens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.goldens()
    monkeypatch.setenv("CRASH", "1")
    result = project.run(*TINY, "--snapshot-update", "-n", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert (project.goldens() == before) is keeps_goldens


def test_two_test_files_with_one_name_have_separate_goldens(project: Project) -> None:
    for folder in ("left", "right"):
        project.test_file(
            "def test_it(nnsight_capture, nnsight_golden):\n"
            f"    assert nnsight_capture.trace({folder!r}) == nnsight_golden\n",
            f"{folder}/test_same.py",
        )
    ini = "[pytest]\naddopts = --import-mode=importlib\n"
    project.pytester.makeini(ini)
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=2)
    folder = "tiny-gpt2/cpu-float32"
    assert list(project.goldens()) == [
        f"{folder}/left/test_same/test_it.json",
        f"{folder}/right/test_same/test_it.json",
    ]
    project.run(*TINY).assert_outcomes(passed=2)


def test_an_update_is_refused_in_ci_unless_forced(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.test_file(TESTS)
    monkeypatch.setenv("CI", "1")
    refused = project.run(*TINY, "--snapshot-update")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(
        ["ERROR: --snapshot-update is refused under CI, *add --nnsight-update-in-ci"]
    )
    assert project.goldens() == {}
    forced = project.run(*TINY, "--snapshot-update", "--nnsight-update-in-ci")
    forced.assert_outcomes(passed=2)
    assert len(project.goldens()) == 2


def test_snapshots_of_syrupy_work_as_without_the_plugin(project: Project) -> None:
    """Unused snapshots of syrupy's ``snapshot`` fixture are still found, next to our goldens."""
    project.test_file(TESTS + "\ndef test_plain(snapshot):\n    assert 1 == snapshot\n")
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=3)
    project.test_file(TESTS + "\ndef test_plain(snapshot):\n    pass\n")
    unused = project.run(*TINY)
    unused.stdout.fnmatch_lines(["*1 snapshot unused.*"])
    before = project.goldens()
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=3)
    assert project.goldens() == before
    assert not list((project.path / "__snapshots__").rglob("*.ambr"))


MANY = """
import time
def check(capture, golden, number):
    time.sleep(0.05)
    assert capture.trace(os.environ.get("PROMPT", "One") + str(number)) == golden

@pytest.mark.parametrize("number", range(40))
def test_many(nnsight_capture, nnsight_golden, number):
    check(nnsight_capture, nnsight_golden, number)
"""


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 2), (signal.SIGKILL, -9)], ids=str)
def test_an_interrupted_run_loses_no_golden(
    project: Project, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """All of its workers end too, as after Ctrl-C or a shutdown."""
    project.test_file(MANY)
    project.run(*TINY, "--snapshot-update", "-n2").assert_outcomes(passed=40)
    old = project.goldens()
    monkeypatch.setenv("PROMPT", "Two")
    command = [sys.executable, "-m", "pytest", *TINY, "--snapshot-update", "-n2"]
    process = subprocess.Popen(
        command, cwd=project.path, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while sum(text != old[path] for path, text in project.goldens().items()) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    now = project.goldens()
    changed = [path for path in old if now[path] != old[path]]
    assert 5 <= len(changed) < 40
    assert now.keys() == old.keys()
    for path in changed:
        assert decode(now[path], path).prompt.text.startswith("Two")


def test_a_full_disk_loses_no_golden(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.test_file(
        TESTS
        + """
import resource

@pytest.fixture(autouse=True)
def disk():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if "FULL" in os.environ:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, before[1]))
"""
    )
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=2)
    before = project.goldens()
    monkeypatch.setenv("FULL", "1")
    monkeypatch.setenv("PROMPT", "Another")
    result = project.run(*TINY, "--snapshot-update", "-k", "one")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["cannot write golden *File too large; *nothing was changed"])
    result.stdout.fnmatch_lines(["1 snapshot failed."])
    assert project.goldens() == before


def test_a_full_disk_counts_no_golden_as_generated(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A golden counts only after it is written; the old one is not changed."""
    project.test_file(TESTS)
    disk = project.path / "golden"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(disk)]
    if subprocess.run(mount).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        project.run(*TINY, "--snapshot-update", "-k", "one").assert_outcomes(passed=1)
        before = project.goldens()
        assert len(before) == 1
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "other").write_bytes(b"x" * free)
        monkeypatch.setenv("PROMPT", "Another")
        result = project.run(*TINY, "--snapshot-update")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.assert_outcomes(passed=2, errors=2)
        result.stdout.fnmatch_lines(["cannot write golden *: No space left on device; *"])
        result.stdout.fnmatch_lines(["2 snapshots failed."])
        assert project.goldens() == before
        (disk / "other").unlink()
        again = project.run(*TINY, "--snapshot-update")
        again.assert_outcomes(passed=2)
        again.stdout.fnmatch_lines(["1 snapshot generated. 1 snapshot updated."])
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_simultaneous_runs_lose_no_golden(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.test_file(TESTS)
    command = [sys.executable, "-m", "pytest", *TINY, "--snapshot-update", "-n0"]
    runs = [
        subprocess.Popen(command, cwd=project.path, stdout=subprocess.DEVNULL) for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in runs] == [0, 0]
    project.run(*TINY).assert_outcomes(passed=2)


def test_a_link_out_of_the_golden_folder_is_not_followed(project: Project) -> None:
    project.test_file(TESTS)
    outside = project.path / "outside"
    outside.mkdir()
    folder = project.path / "golden" / "tiny-gpt2" / "cpu-float32"
    folder.mkdir(parents=True)
    (folder / "test_it").symlink_to(outside)
    for options in ((), ("--snapshot-update",)):
        result = project.run(*TINY, *options)
        assert result.ret == 1
        result.stdout.fnmatch_lines(["*test_one.json leads out of golden/ by a link; remove it*"])
    assert [*outside.iterdir()] == []


def test_a_failing_teardown_changes_no_golden(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.test_file(
        TESTS + "\n@pytest.fixture(autouse=True)\ndef late():\n    yield\n"
        "    assert 'BAD' not in os.environ\n"
    )
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=2)
    before = project.goldens()
    monkeypatch.setenv("BAD", "1")
    monkeypatch.setenv("PROMPT", "Another")
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=2, errors=2)
    assert project.goldens() == before
