"""Annotations and the step summary for GitHub; text of tests stays text."""

from __future__ import annotations

from typing import Any

from test_terminal import ACCEPTED, CHANGE, DRIFT, SAME, STRUCTURE, case, report_of

from pytest_nnsight.report.github import annotation_lines, step_summary, table_summary


def placed(name: str, *goldens: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return case(name, *goldens, **{"file": "tests/test_it.py", "line_number": 7, **changes})


def test_annotation_points_at_the_line_of_its_test() -> None:
    assert [*annotation_lines(report_of(placed("test_a", DRIFT), placed("test_b", SAME)))] == [
        "::error file=tests/test_it.py,line=7,title=drift%3A test_a::golden drift: so"
    ]


def test_characters_that_end_a_command_are_escaped() -> None:
    hung = placed("t,a:b", outcome="hung", line="HUNG\n::stop 100%", file="a,b.py")
    assert [*annotation_lines(report_of(hung))] == [
        "::error file=a%2Cb.py,line=7,title=hung%3A t%2Ca%3Ab::HUNG%0A::stop 100%25"
    ]


def test_only_the_ten_worst_tests_get_annotations() -> None:
    tests = [placed(f"t{i}", DRIFT) for i in range(12)]
    found = [*annotation_lines(report_of(*tests, placed("c", outcome="crashed", line="CRASHED")))]
    assert len(found) == 10
    assert found[0].endswith("::CRASHED")


def test_summary_is_a_table_of_tests_that_differ() -> None:
    lines = step_summary(report_of(placed("test_a", DRIFT), placed("test_b", SAME))).splitlines()
    assert lines[0] == "### nnsight: 2 goldens: 1 drift, 1 the same bit by bit"
    start = "| \u274c | test\\_it.py::test\\_a | drift | model.layers.1.mlp.up\\_proj | "
    assert lines[4].startswith(start)
    assert lines[4].count(" | ") == 5
    assert not any("test\\_b" in line for line in lines)


def test_one_structural_change_is_one_annotation_and_one_row() -> None:
    tests = [placed(f"test_{name}", STRUCTURE) for name in "ab"]
    report = report_of(*tests, placed("test_c", ACCEPTED))
    assert [*annotation_lines(report)] == [
        "::error file=tests/test_it.py,line=7,title=structure only%2C all values equal::"
        f"{CHANGE}, 2 tests: test_it.py::test_a, test_it.py::test_b"
    ]
    rows = step_summary(report).splitlines()[4:]
    assert rows[0] == (
        "| \u274c | test\\_it.py::test\\_a, test\\_it.py::test\\_b | structure | h.0 | "
        "container tensor -&gt; (tensor,) | transformers 5.2.0 -&gt; 5.23.0 |"
    )
    assert not rows[1]


def test_summary_without_drift_is_only_a_heading() -> None:
    assert step_summary(report_of(placed("a", SAME))) == (
        "### nnsight: 1 golden: 1 the same bit by bit\n\n\n"
    )
    assert step_summary(report_of(placed("a"))) == ""


def test_text_of_tests_is_neither_markdown_nor_html() -> None:
    crash = placed("t[<img src=x>|`a`]", outcome="crashed", line="a|b <script>\n| c")
    row = step_summary(report_of(crash)).splitlines()[4]
    assert "&lt;img src=x&gt;\\|\\`a\\`" in row
    assert "<" not in row
    assert row.count(" | ") == 5


def test_summary_of_an_upgrade_folds_the_results_that_differ() -> None:
    text = table_summary([["combination", "same"], ["a==1", "2"]], ["drift: <b>"])
    assert text.splitlines()[:3] == ["| combination | same |", "| - | - |", "| a==1 | 2 |"]
    assert "drift: &lt;b&gt;" in text
