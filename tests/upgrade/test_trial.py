"""The report of a run -> what a combination comes to."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nnsight.upgrade.combination import Combination
from pytest_nnsight.upgrade.trial import trial_of

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
    trial = trial_of(combination, report(now, versions))
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
    trial = trial_of(("transformers==5.2.0",), report(now, versions))
    assert trial.worst == "error"
    assert trial.failure == (
        f"the tests ran with transformers {told}: does PYTHONPATH, a conftest or the import mode "
        "put another before it?"
    )
    assert trial.is_installed
