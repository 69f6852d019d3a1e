"""The report of a run -> what a combination comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.upgrade import upgrade_run as module
from pytest_nnsight.upgrade.combination import Combination
from pytest_nnsight.upgrade.upgrade_run import Bench, Result, upgrade_run_of

MEANT = {"transformers": "5.2.0", "torch": "2.13.0+cpu", "pytest": "9.2.0"}


def report(now: dict[str, str], versions: dict[str, str] = MEANT) -> dict[str, Any]:
    """Return the report of one test that is the same as its golden, and ran with versions."""
    golden = {"verdict": "same", "now": {"versions": now}}
    test = {"test": "test_it", "outcome": "passed", "line": "", "goldens": [golden]}
    return {"versions": versions, "tests": [test], "errors": [], "not_run": []}


@pytest.mark.parametrize(
    ("combination", "now", "versions"),
    [
        (("transformers==5.2.0",), MEANT, MEANT),
        (("Transformers>=5", "torch==2.13.0"), {**MEANT, "numpy": "2"}, MEANT),
        (("drifty==1.0",), {"numpy": "2"}, MEANT),
        (("transformers>=5",), {}, {"transformers": "5.30.0.dev1"}),
    ],
)
def test_a_run_with_the_versions_of_its_environment(
    combination: Combination, now: dict[str, str], versions: dict[str, str]
) -> None:
    trial = upgrade_run_of(combination, report(now, versions))
    assert (trial.worst, trial.failure) == ("same", "")


@pytest.mark.parametrize(
    ("now", "versions", "told"),
    [
        ({**MEANT, "transformers": "5.23.0"}, MEANT, "5.23.0, not 5.2.0"),
        ({}, {**MEANT, "transformers": "5.23.0"}, "5.23.0, not ==5.2.0"),
    ],
    ids=["a worker", "all"],
)
def test_a_run_with_other_versions_says_nothing_about_these(
    now: dict[str, str], versions: dict[str, str], told: str
) -> None:
    trial = upgrade_run_of(("transformers==5.2.0",), report(now, versions))
    assert trial.worst == "error"
    assert trial.failure == (
        f"the tests ran with transformers {told}: does PYTHONPATH, a conftest or the import mode "
        "put another before it?"
    )
    assert trial.is_installed


def test_files_that_cannot_be_collected_and_tests_that_were_not_reached_count() -> None:
    told = report(MEANT) | {
        "errors": [{"file": "test_b.py", "line": "ImportError: no"}],
        "not_run": ["test_c"],
    }
    assert upgrade_run_of(("transformers==5.2.0",), told).results[1:] == (
        Result("test_b.py", "error", "ImportError: no"),
        Result("test_c", "not run"),
    )


def test_a_run_without_a_test_is_an_error() -> None:
    nothing = {"versions": MEANT, "tests": [], "errors": [], "not_run": []}
    trial = upgrade_run_of(("transformers==5.2.0",), nothing)
    assert (trial.worst, trial.failure, trial.is_installed) == ("error", "no test ran", True)


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
def test_what_writes_goldens_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"^{word} writes goldens; a trial only checks against"):
        Bench(tmp_path, ["-q", word], [], tmp_path, print)


def test_the_page_of_a_job_is_not_shown_to_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run would write itself there, beside the table of all."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nenv > "{tmp_path}/environ"\n')
    program.chmod(0o755)
    monkeypatch.setattr(module, "make_environment", lambda *arguments: program)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    trial = Bench(tmp_path, [], [], tmp_path, print).run(("drifty==1.0",), "1/1")
    assert trial.failure == "pytest did not run: exit 0"
    assert "GITHUB" not in (tmp_path / "environ").read_text()
