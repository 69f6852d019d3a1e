"""The section at the end of a session: what drifts, where, how much, why, what to run next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import NEWER, OTHER_THREADS, drifted, make_call, make_pass, make_run

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.report.failure import diagnose_finding, format_size
from pytest_nnsight.report.outcomes import FORMAT
from pytest_nnsight.report.record import record_of_failure, record_of_match
from pytest_nnsight.report.terminal import bars_for, session_lines, sparkline
from pytest_nnsight.run import Run

ELSEWHERE = {"environment": OTHER_THREADS}
COMMAND = "pytest --nnsight-model gpt2 test_it.py::test_a"


def golden_of(golden: Run, received: Run) -> dict[str, Any]:
    comparison = compare(golden, received)
    finding = Finding("golden/a.json", golden=golden, received=received, comparison=comparison)
    if comparison.matches:
        return {**record_of_match(finding), "model": "gpt2"}
    record = record_of_failure(finding, diagnose_finding(finding))
    return {**record, "line": "golden drift: so", "model": "gpt2"}


def case(name: str, *goldens: dict[str, Any], **changes: Any) -> dict[str, Any]:
    found = {"test": f"test_it.py::{name}", "outcome": "passed", "line": "", "seconds": 1.0}
    failed = any("start" in golden for golden in goldens)
    return {
        **found,
        "outcome": "failed" if failed else "passed",
        "goldens": [*goldens],
        "command": COMMAND,
        **changes,
    }


def report_of(*tests: dict[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "kind": "report", "tests": [*tests], "errors": [], "not_run": []}


def lines_of(*tests: dict[str, Any], verbosity: int = 0, encoding: str = "utf-8") -> list[str]:
    return [line.text for line in session_lines(report_of(*tests), verbosity, encoding)]


DRIFT = golden_of(make_pass(), drifted("model.layers.1.mlp.up_proj", 1e-2))
SAME = golden_of(make_pass(), make_pass())
OTHER = make_run(make_call(output="(tensor,)"), environment=NEWER)
STRUCTURE = golden_of(make_run(), OTHER)
ACCEPTED = golden_of(make_run(), replace(OTHER, structure="values"))
CHANGE = "container tensor -> (tensor,), first at h.0 (transformers 5.2.0 -> 5.23.0)"


def test_session_without_drift_is_one_line() -> None:
    assert lines_of(case("test_a", SAME), case("test_b", SAME)) == [
        "2 goldens: 2 the same bit by bit"
    ]
    assert [line.is_good for line in session_lines(report_of(case("a", SAME)), 0, "")] == [True]


def test_session_without_goldens_has_no_section() -> None:
    assert lines_of(case("test_a"), case("test_b", outcome="failed", line="plainly")) == []


def test_drift_is_described_from_verdict_to_command() -> None:
    lines = lines_of(case("test_a", DRIFT), case("test_b", SAME))
    assert lines[:3] == [
        "2 goldens: 1 drift, 1 the same bit by bit",
        "DRIFT test_it.py::test_a",
        f"  {DRIFT['drifted']} of {DRIFT['calls']} calls, from model.layers.1.mlp.up_proj: "
        f"rel {format_size(DRIFT['rel'])}, allowed 1e-5",
    ]
    assert lines[3].startswith("  cause: code (same inputs, weights, config and versions")
    assert lines[4].startswith("  depth  \u00b7")
    assert [line for line in lines if "worst" in line] == [lines[5]]
    assert lines[-2:] == [f"  rerun  {COMMAND}", f"  if this is right: {COMMAND} --snapshot-update"]
    assert len(lines) == 12  # five of them the worst modules


def test_tests_with_the_same_start_and_cause_are_one_group() -> None:
    lines = lines_of(*(case(f"test_{name}", DRIFT) for name in "abcdef"))
    assert lines[1] == "DRIFT test_it.py::test_a"
    assert lines[2] == "  also " + ", ".join(f"test_it.py::test_{n}" for n in "bcd") + " and 2 more"
    assert sum("cause" in line for line in lines) == 1
    assert "test_f" in lines_of(*(case(f"test_{n}", DRIFT) for n in "abcdef"), verbosity=2)[2]


def test_one_structural_change_is_reported_once_after_the_drifts() -> None:
    tests = [case(f"test_{name}", {**STRUCTURE, "model": name}) for name in "abcd"]
    lines = lines_of(*tests, case("test_e", DRIFT))
    assert lines[0] == "5 goldens: 1 drift, 4 structure only"
    assert [line for line in lines if line.startswith(("DRIFT", "STRUCT"))] == [
        "DRIFT test_it.py::test_e"
    ]
    assert lines[-3:] == [
        "structure only, all values equal (write them with --snapshot-update, or accept such "
        "changes with --nnsight-structure=values):",
        f"  {CHANGE}, 4 tests:",
        "    " + ", ".join(f"test_it.py::test_{name}" for name in "abcd"),
    ]


def test_accepted_structural_change_is_listed_as_such() -> None:
    assert ACCEPTED["verdict"] == "same"
    lines = [*session_lines(report_of(case("test_a", ACCEPTED)), 0, "")]
    assert [line.text for line in lines[1:]] == [
        "other structure, accepted because all values are equal:",
        f"  {CHANGE}, 1 test:",
        "    test_it.py::test_a",
    ]
    assert lines[1].is_good is None


def test_many_tests_of_a_structural_change_are_counted() -> None:
    tests = [case(f"test_{number}", STRUCTURE) for number in range(25)]
    assert lines_of(*tests)[-1].endswith("test_it.py::test_19 and 5 more")
    assert lines_of(*tests, verbosity=2)[-1].endswith("test_it.py::test_24")


def test_each_model_has_its_own_group() -> None:
    lines = lines_of(case("test_a", DRIFT), case("test_b", {**DRIFT, "model": "llama"}))
    assert [line for line in lines if line.startswith("DRIFT")] == [
        "DRIFT test_it.py::test_a",
        "DRIFT test_it.py::test_b",
    ]


def test_worst_group_comes_first_and_the_number_of_groups_is_limited() -> None:
    hung = case("test_h", outcome="hung", line="HUNG after 4 s, last module h.0")
    crashed = case("test_c", outcome="crashed", line="CRASHED: segmentation fault")
    lines = lines_of(case("test_a", DRIFT), hung, crashed)
    heads = [line for line in lines if line.split(" ")[0].isupper()]
    assert [line.split(" ")[0] for line in heads] == ["CRASHED", "HUNG", "DRIFT"]
    assert lines[2] == "  CRASHED: segmentation fault"
    many = [case(f"t{i}", outcome="hung", line=f"HUNG after {i} s") for i in range(12)]
    assert lines_of(*many)[-1] == "... and 4 more kinds of failure (-vv shows them)"
    assert len(lines_of(*many, verbosity=2)) == 36  # three lines each, the last of them the command


def test_quiet_shows_only_the_count() -> None:
    assert lines_of(case("test_a", DRIFT), verbosity=-1) == ["1 golden: 1 drift"]


def test_missing_golden_shows_the_command_that_writes_it() -> None:
    golden = {"golden": "g", "verdict": "missing", "line": "no golden g"}
    lines = lines_of(case("test_a", golden, outcome="failed"))
    assert lines[0] == "1 golden: 1 missing"
    assert lines[-1] == f"  write it: {COMMAND} --snapshot-update"


def test_changed_environment_is_shown_unless_it_is_the_evidence() -> None:
    moved = golden_of(make_pass(), drifted(environment={"threads": 8, "dtype": "float32"}))
    assert "  threads 2 -> 8" in lines_of(case("test_a", {**moved, "evidence": "something else"}))


@pytest.mark.parametrize("name", ["differ", "unchecked", "tie"])
def test_remark_about_a_passed_test_is_listed(name: str) -> None:
    lines = lines_of(case("test_a", {**SAME, name: "so and so"}))
    assert lines[2] == "  test_it.py::test_a: so and so"


def test_bars_are_logarithmic_with_a_dot_for_equal_bits() -> None:
    assert sparkline([0, 1e-6, 1e-4, 1e-2, "Infinity"]) == "\u00b7\u2581\u2585\u2588\u2588"
    assert sparkline([0, 0]) == "\u00b7\u00b7"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "", "no such"])
def test_terminal_that_cannot_show_bars_gets_ascii(encoding: str) -> None:
    assert sparkline([0, 1e-6, 1e-2], bars_for(encoding)) == " .@"
    assert all(line.isascii() for line in lines_of(case("test_a", DRIFT), encoding=encoding))


def test_control_characters_are_escaped() -> None:
    lines = lines_of(case("test_\x1b[31m", DRIFT, outcome="failed"))
    assert not any("\x1b" in line for line in lines)


def test_one_drifting_golden_makes_the_count_bad_news() -> None:
    lines = [*session_lines(report_of(case("a", DRIFT), case("b", SAME)), 0, "")]
    assert lines[0].is_good is False


def test_bits_that_may_differ_get_no_remark() -> None:
    """With another number of threads they may."""
    near = drifted("model.layers.1.mlp.up_proj", 1e-7)
    assert golden_of(make_pass(), near)["differ"].startswith("8 of 27 calls, ")
    other = golden_of(make_pass(), drifted("model.layers.1.mlp.up_proj", 1e-7, **ELSEWHERE))
    assert "differ" not in other
    assert other["unchecked"] == "threads 2 -> 8"
