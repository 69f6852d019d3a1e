"""The ways in which a snapshot plugin loses a golden, each shut.

Each test runs twice: as it is, and with `syrupy`'s own behaviour put back (``STOCK``), where the
golden must be lost or damaged, so that the test is known to be able to fail.
"""

from __future__ import annotations

import pytest
from project import TINY, Project

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
def keeps(request: pytest.FixtureRequest, project: Project) -> bool:
    """Two goldens are written; whether they should still be whole after what the test does."""
    project.test_file(TESTS)
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=2)
    if request.param == "stock":
        project.pytester.makeconftest(STOCK)
    return request.param == "ours"


def test_a_failure_before_the_assertion(
    project: Project, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.goldens()
    monkeypatch.setenv("FAIL", "1")
    project.run(*TINY, "--snapshot-update").assert_outcomes(failed=1, passed=1)
    assert (project.goldens() == before) is keeps


def test_a_failure_after_the_assertion(
    project: Project, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.goldens()
    monkeypatch.setenv("LATE", "1")
    monkeypatch.setenv("PROMPT", "Another")
    project.run(*TINY, "--snapshot-update").assert_outcomes(failed=1, passed=1)
    assert (project.goldens() == before) is keeps


def test_a_test_selected_alone(
    project: Project, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock loses its siblings where all goldens lie in one folder at the top, as ours do."""
    before = project.goldens()
    monkeypatch.setenv("TOP", "1")
    project.run(*TINY, "--snapshot-update", "test_it.py::test_two").assert_outcomes(passed=1)
    assert (before.items() <= project.goldens().items()) is keeps


def test_a_worker_that_is_killed(
    project: Project, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project.goldens()
    monkeypatch.setenv("CRASH", "1")
    result = project.run(*TINY, "--snapshot-update", "-n", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert (project.goldens() == before) is keeps


def test_two_test_files_of_one_name_have_goldens_of_their_own(project: Project) -> None:
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


def test_the_users_own_snapshots_keep_syrupys_ways(project: Project) -> None:
    """Unused snapshots of a plain ``snapshot`` fixture are still found, beside our goldens."""
    project.test_file(TESTS + "\ndef test_plain(snapshot):\n    assert 1 == snapshot\n")
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=3)
    project.test_file(TESTS + "\ndef test_plain(snapshot):\n    pass\n")
    unused = project.run(*TINY)
    unused.stdout.fnmatch_lines(["*1 snapshot unused.*"])
    before = project.goldens()
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=3)
    assert project.goldens() == before
    assert not list((project.path / "__snapshots__").rglob("*.ambr"))
