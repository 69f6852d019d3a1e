"""Write a session's report for GitHub: annotations on tests, and a step summary in Markdown.

Other CI services read the JSON report or JUnit files.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_nnsight.errors import visible
from pytest_nnsight.report.outcomes import NOISE, VERDICTS, verdict_of, worst_golden
from pytest_nnsight.report.terminal import change_text, count_line, environment_changes

_MOST_ANNOTATIONS = 10  # GitHub shows no more for one step
_MOST_ROWS = 100
_SYMBOLS = {"good": "\u2705", "noise": "\u2796", "bad": "\u274c"}


def annotation_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield a workflow command for each failing test, the worst first."""
    failing = [row for row in _rows_worst_first(report) if _is_bad(row[1]) and "file" in row[0]]
    for test, verdict, line in failing[:_MOST_ANNOTATIONS]:
        location = f"file={_property(test['file'])},line={test['line_number']}"
        title = _property(f"{verdict}: {test['test'].rpartition('::')[2]}")
        yield f"::error {location},title={title}::{_data(line or verdict)}"


def _rows_worst_first(report: dict[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
    """Return each test with its verdict and the line that explains it."""
    rows = [(test, *verdict_of(test)) for test in report["tests"]]
    return sorted(rows, key=lambda row: -VERDICTS.index(row[1]))


def _is_bad(verdict: str) -> bool:
    return VERDICTS.index(verdict) > VERDICTS.index(NOISE)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def step_summary(report: dict[str, Any]) -> str:
    """Return Markdown about a session: the tests that differ, and what changed around them."""
    counted = count_line(report)
    rows = [row for row in _rows_worst_first(report) if row[1] == NOISE or _is_bad(row[1])]
    if counted is None and not rows:
        return ""
    lines = [f"### nnsight: {counted.text if counted is not None else 'no golden compared'}", ""]
    if rows:
        lines += ["| | test | verdict | starts at | size | cause |", "|-|-|-|-|-|-|"]
    for test, verdict, line in rows[:_MOST_ROWS]:
        golden = worst_golden(test) or {}
        cells = [_symbol(verdict), test["test"], verdict, *_finding_cells(golden, line)]
        lines.append("| " + " | ".join(map(markdown_text, cells)) + " |")
    if len(rows) > _MOST_ROWS:
        lines += ["", f"... and {len(rows) - _MOST_ROWS} more"]
    goldens = [golden for test in report["tests"] for golden in test["goldens"]]
    changes = dict.fromkeys(text for golden in goldens for text in environment_changes(golden))
    if changes:
        text = markdown_text(", ".join(changes))
        lines += ["", f"Changed since the goldens were written: {text}"]
    return "\n".join(lines) + "\n\n"


def _finding_cells(golden: dict[str, Any], line: str) -> Sequence[str]:
    if "start" not in golden:
        return (line, "", "")
    likely = "" if golden["is_certain"] else "likely "
    cause = f"{likely}{golden['cause']}: {golden['evidence']}"
    return (golden["start"], change_text(golden), cause)


def _symbol(verdict: str) -> str:
    return _SYMBOLS["bad" if _is_bad(verdict) else "noise" if verdict == NOISE else "good"]


def markdown_text(text: str) -> str:
    """Escape text from goldens and tests, so that Markdown shows it as it is."""
    return visible(text).translate(_AS_TEXT)


_AS_TEXT = str.maketrans(
    {"<": "&lt;", ">": "&gt;", "&": "&amp;", **{letter: f"\\{letter}" for letter in "\\|`*_[]#~"}}
)


def table_summary(rows: Sequence[Sequence[str]], lines: Sequence[str]) -> str:
    """Return Markdown: a table whose first row is the heading, and lines folded below it."""
    heading, *body = [[markdown_text(cell) for cell in row] for row in rows]
    table = ["| " + " | ".join(row) + " |" for row in (heading, ["-"] * len(heading), *body)]
    if not lines:
        return "\n".join([*table, ""]) + "\n"
    shown = ["", "<details><summary>Tests that differ</summary>", "", "<pre>"]
    shown += [html.escape(visible(line)) for line in lines]
    return "\n".join([*table, *shown, "</pre>", "</details>", ""]) + "\n"
