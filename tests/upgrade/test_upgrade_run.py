"""The report of a session becomes the results of a combination."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.upgrade import upgrade_run as module
from pytest_nnsight.upgrade.requirements import Combination
from pytest_nnsight.upgrade.upgrade_run import Result, UpgradeRunner, read_upgrade_run

VERSIONS = {"transformers": "5.2.0", "torch": "2.13.0+cpu", "pytest": "9.2.0"}


def report(now: dict[str, str], versions: dict[str, str] = VERSIONS) -> dict[str, Any]:
    """Return the report of one test that matches its golden and ran with some versions."""
    golden = {"verdict": "same", "now": {"versions": now}}
    test = {"test": "test_it", "outcome": "passed", "line": "", "goldens": [golden]}
    return {"versions": versions, "tests": [test], "errors": [], "not_run": []}


@pytest.mark.parametrize(
    ("combination", "now", "versions"),
    [
        (("transformers==5.2.0",), VERSIONS, VERSIONS),
        (("Transformers>=5", "torch==2.13.0"), {**VERSIONS, "numpy": "2"}, VERSIONS),
        (("drifty==1.0",), {"numpy": "2"}, VERSIONS),
        (("transformers>=5",), {}, {"transformers": "5.30.0.dev1"}),
    ],
)
def test_session_with_the_versions_of_its_environment_is_valid(
    combination: Combination, now: dict[str, str], versions: dict[str, str]
) -> None:
    run = read_upgrade_run(combination, report(now, versions))
    assert (run.worst, run.failure) == ("same", "")


@pytest.mark.parametrize(
    ("now", "versions", "difference"),
    [
        ({**VERSIONS, "transformers": "5.23.0"}, VERSIONS, "5.23.0, not 5.2.0"),
        ({}, {**VERSIONS, "transformers": "5.23.0"}, "5.23.0, not ==5.2.0"),
    ],
    ids=["a worker", "all"],
)
def test_session_with_other_versions_is_an_error(
    now: dict[str, str], versions: dict[str, str], difference: str
) -> None:
    run = read_upgrade_run(("transformers==5.2.0",), report(now, versions))
    assert run.worst == "error"
    assert run.failure == (
        f"the tests ran with transformers {difference}: does PYTHONPATH, a conftest or the "
        "import mode put another version first?"
    )
    assert run.is_installed


def test_collection_errors_and_tests_that_did_not_run_are_results() -> None:
    session = report(VERSIONS) | {
        "errors": [{"file": "test_b.py", "line": "ImportError: no"}],
        "not_run": ["test_c"],
    }
    assert read_upgrade_run(("transformers==5.2.0",), session).results[1:] == (
        Result("test_b.py", "error", "ImportError: no"),
        Result("test_c", "not run"),
    )


def test_session_without_a_test_is_an_error() -> None:
    nothing = {"versions": VERSIONS, "tests": [], "errors": [], "not_run": []}
    run = read_upgrade_run(("transformers==5.2.0",), nothing)
    assert (run.worst, run.failure, run.is_installed) == ("error", "no test ran", True)


@pytest.mark.parametrize(
    "word",
    [
        "--snapshot-update",
        "--nnsight-rebaseline",
        "--nnsight-calibrate",
        "--nnsight-prune",
        "--nnsight-prune=remove",
    ],
)
def test_option_that_writes_goldens_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=rf"^{word} writes goldens; upgrade and bisect only check them"
    ):
        UpgradeRunner(tmp_path, ["-q", word], [], tmp_path, print)


def test_session_does_not_see_the_step_summary_of_the_ci_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each session would add its own summary to the table of all."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nenv > "{tmp_path}/environ"\n')
    program.chmod(0o755)
    monkeypatch.setattr(module, "make_environment", lambda *arguments: program)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    run = UpgradeRunner(tmp_path, [], [], tmp_path, print).run(("drifty==1.0",), "1/1")
    assert run.failure == "pytest did not run: exit 0"
    assert "GITHUB" not in (tmp_path / "environ").read_text()
