"""Upgrade runs become a table, lines about differences, and an exit code."""

from __future__ import annotations

import pytest

from pytest_nnsight.report.outcomes import (
    CRASHED,
    DRIFT,
    ERROR,
    HUNG,
    MISSING,
    NOISE,
    NOT_RUN,
    PASSED,
    SAME,
    SKIPPED,
    STRUCTURE,
)
from pytest_nnsight.upgrade.table import exit_code, table_json, table_lines
from pytest_nnsight.upgrade.upgrade_run import Result, UpgradeRun

NEW, OLD = ("transformers==5.23.0",), ("transformers==4.57.6", "nnsight==0.7.0")


def test_a_table() -> None:
    drifted = [Result(f"test_{n}", DRIFT, "golden drift: 3 of 4 calls") for n in range(2)]
    runs = [
        UpgradeRun(
            ("transformers>=5",),
            (Result("test_0", SAME), Result("test_1", NOISE)),
            report={"versions": {"transformers": "5.23.0"}},
        ),
        UpgradeRun(OLD, (*drifted, Result("test_2", HUNG, "HUNG after 3 s \x1b[2J")), report={}),
        UpgradeRun(("nnsight==99",), failure="cannot be installed: no such version"),
        UpgradeRun(
            ("torch==2.6",), (Result("test_0", PASSED),), "the tests ran with torch 2.13", {}
        ),
    ]
    assert [*table_lines(runs)] == [
        "                                      same  within noise  drift  hung",
        "transformers>=5 (5.23.0)                 1             1",
        "transformers==4.57.6, nnsight==0.7.0                          2     1",
        "nnsight==99                           cannot be installed: no such version",
        "torch==2.6                            the tests ran with torch 2.13",
        "",
        "transformers>=5 (5.23.0):",
        "  within noise: test_1",
        "",
        "transformers==4.57.6, nnsight==0.7.0:",
        "  drift: test_0, test_1",
        "    golden drift: 3 of 4 calls",
        "  hung: test_2",
        "    HUNG after 3 s \\x1b[2J",
    ]
    assert [entry["worst"] for entry in table_json(runs)["trials"]] == [
        NOISE,
        HUNG,
        "not installed",
        ERROR,
    ]


def test_a_release_that_changes_only_the_structure_says_so() -> None:
    change = {"golden": "g", "verdict": STRUCTURE, "evidence": "transformers 5.23.0 -> 5.24.0"}
    change["structure"] = {"container past_key_values -> cache": "transformer"}
    names = [f"test_{number}" for number in range(3)]
    results = tuple(Result(name, STRUCTURE, "golden structure changed") for name in names)
    report = {"tests": [{"test": name, "goldens": [change]} for name in names]}
    assert [*table_lines([UpgradeRun(NEW, results, report=report)])] == [
        "                      structure",
        "transformers==5.23.0          3",
        "",
        "transformers==5.23.0:",
        "  structure only, all values equal:",
        "    container past_key_values -> cache, first at transformer "
        "(transformers 5.23.0 -> 5.24.0), 3 tests:",
        "      test_0, test_1, test_2",
    ]


def test_only_tests_that_differ_are_listed_with_escaped_names() -> None:
    results = (Result("test_a", SKIPPED), Result("test_\x1b[2J", MISSING), Result("test_b", PASSED))
    assert [*table_lines([UpgradeRun(NEW, results, report={})])][3:] == [
        "transformers==5.23.0:",
        "  missing: test_\\x1b[2J",
    ]


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([SAME, NOISE, PASSED], 0),
        ([SAME, DRIFT], 1),
        ([STRUCTURE, SAME], 5),
        ([STRUCTURE, DRIFT], 1),
        ([STRUCTURE, MISSING], 1),
        ([STRUCTURE, ERROR], 3),
        ([MISSING, SAME], 1),
        ([SKIPPED], 0),
        ([NOT_RUN, DRIFT], 3),
        ([DRIFT, ERROR], 3),
        ([HUNG], 3),
        ([CRASHED, DRIFT], 3),
        ([], 3),
    ],
)
def test_exit_codes(verdicts: list[str], code: int) -> None:
    results = tuple(Result(str(n), verdict) for n, verdict in enumerate(verdicts))
    failure = "" if results else "no test ran"
    assert exit_code([UpgradeRun(NEW, results, failure, {})]) == code
    assert exit_code([UpgradeRun(NEW, results, failure, {}), UpgradeRun(OLD, failure="no")]) == 4
