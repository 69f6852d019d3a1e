"""Write a session's report for GitHub: annotations on tests, and a step summary in Markdown.

Other CI services read the JSON report or JUnit files.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_nnsight.errors import visible
from pytest_nnsight.report import outcomes
from pytest_nnsight.report.outcomes import NOISE, STRUCTURE, is_bad, tests_worst_first
from pytest_nnsight.report.terminal import (
    change_lines,
    change_text,
    count_line,
    environment_changes,
)

_MOST_ANNOTATIONS = 10  # GitHub shows no more for one step
_MOST_ROWS = 100
_MOST_TESTS = 20  # of one change of the structure
_AS_TEXT = str.maketrans(
    {"<": "&lt;", ">": "&gt;", "&": "&amp;", **{letter: f"\\{letter}" for letter in "\\|`*_[]#~"}}
)


def annotation_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield a workflow command for each failing test, the worst first, and structural change."""
    failing = [row for row in _failing_tests(report) if "file" in row[0]]
    found = [
        _annotation(test, f"{verdict}: {test['test'].rpartition('::')[2]}", line or verdict)
        for test, verdict, line in failing
    ]
    tests = {test["test"]: test for test in report["tests"]}
    for change in _structural_failures(report):
        text = " ".join(map(str.strip, change_lines([change], _MOST_TESTS)))
        found.append(_annotation(tests[change["tests"][0]], outcomes.STRUCTURE_ONLY, text))
    yield from found[:_MOST_ANNOTATIONS]


def _annotation(test: dict[str, Any], title: str, text: str) -> str:
    location = f"file={_property(test['file'])},line={test['line_number']}"
    return f"::error {location},title={_property(title)}::{_data(text)}"


def _failing_tests(report: dict[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
    """Return the tests that fail by more than their structure, the worst first."""
    return [row for row in tests_worst_first(report) if is_bad(row[1]) and row[1] != STRUCTURE]


def _structural_failures(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [x for x in outcomes.structural_changes(report) if not x["is_accepted"]]


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def step_summary(report: dict[str, Any]) -> str:
    """Return Markdown about a session: the tests that differ, and what changed around them."""
    counted = count_line(report)
    rows = [_cells(*row) for row in _failing_tests(report)]
    for change in _structural_failures(report):
        *_, tests = change_lines([change], _MOST_TESTS)
        cells = ("\u274c", tests.strip(), STRUCTURE, change["start"], change["change"])
        rows.append((*cells, change["evidence"]))
    rows += [_cells(*row) for row in tests_worst_first(report) if row[1] == NOISE]
    if counted is None and not rows:
        return ""
    lines = [f"### nnsight: {counted.text if counted is not None else 'no golden compared'}", ""]
    if rows:
        heading = ["", "test", "verdict", "starts at", "size", "cause"]
        lines += _table([heading, *rows[:_MOST_ROWS]])
    if len(rows) > _MOST_ROWS:
        lines += ["", f"... and {len(rows) - _MOST_ROWS} more"]
    goldens = [golden for test in report["tests"] for golden in test["goldens"]]
    changes = dict.fromkeys(text for golden in goldens for text in environment_changes(golden))
    if changes:
        lines += ["", f"Changed since the goldens were written: {_as_text(', '.join(changes))}"]
    return "\n".join(lines) + "\n\n"


def _cells(test: dict[str, Any], verdict: str, line: str) -> Sequence[str]:
    """Return the row of a test that differs."""
    first = ("\u274c" if is_bad(verdict) else "\u2796", test["test"], verdict)
    golden = outcomes.worst_golden(test) or {}
    if "start" not in golden:
        return (*first, line, "", "")
    likely = "" if golden["is_certain"] else "likely "
    cause = f"{likely}{golden['cause']}: {golden['evidence']}"
    return (*first, golden["start"], change_text(golden), cause)


def _as_text(text: str) -> str:
    """Escape text from goldens and tests, so that Markdown shows it as it is."""
    return visible(text).translate(_AS_TEXT)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose first row is the heading."""
    heading, *body = [map(_as_text, row) for row in rows]
    cells = (heading, ["-"] * len(rows[0]), *body)
    return ["| " + " | ".join(row) + " |" for row in cells]


def table_summary(rows: Sequence[Sequence[str]], lines: Sequence[str]) -> str:
    """Return Markdown: a table whose first row is the heading, and lines folded below it."""
    table = _table(rows)
    if lines:
        table += ["", "<details><summary>Tests that differ</summary>", "", "<pre>"]
        table += [*(html.escape(visible(line)) for line in lines), "</pre>", "</details>"]
    return "\n".join([*table, ""]) + "\n"
