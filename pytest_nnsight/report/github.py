"""The report of a session -> annotations on the lines of tests, and a step summary in Markdown.

The commands and the file are GitHub's; other services read the JSON, or JUnit files.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

from pytest_nnsight.errors import visible
from pytest_nnsight.report.failure import size
from pytest_nnsight.report.outcomes import NOISE, VERDICTS, verdict_of, worst_golden
from pytest_nnsight.report.terminal import count_line, versions_moved

_MOST_ANNOTATIONS = 10  # GitHub shows no more of one step
_MOST_ROWS = 100
_SYMBOLS = {"good": "\u2705", "noise": "\u2796", "bad": "\u274c"}


def annotation_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield a workflow command for each test that is worse than noise, the worst first."""
    found = [(test, *verdict_of(test)) for test in report["tests"]]
    bad = [each for each in found if _is_bad(each[1]) and "file" in each[0]]
    for test, verdict, line in sorted(bad, key=lambda x: -VERDICTS.index(x[1]))[:_MOST_ANNOTATIONS]:
        place = f"file={_property(test['file'])},line={test['line_number']}"
        title = _property(f"{verdict}: {test['test'].rpartition('::')[2]}")
        yield f"::error {place},title={title}::{_data(line or verdict)}"


def _is_bad(verdict: str) -> bool:
    return VERDICTS.index(verdict) > VERDICTS.index(NOISE)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def step_summary(report: dict[str, Any]) -> str:
    """Return Markdown about a session: the tests that are not the same, and what moved."""
    counted = count_line(report)
    rows = [(test, *verdict_of(test)) for test in report["tests"]]
    told = [row for row in rows if row[1] == NOISE or _is_bad(row[1])]
    if counted is None and not told:
        return ""
    lines = [f"### nnsight: {counted.text if counted is not None else 'no golden compared'}", ""]
    if told:
        lines += ["| | test | verdict | starts at | size | cause |", "|-|-|-|-|-|-|"]
    for test, verdict, line in sorted(told, key=lambda x: -VERDICTS.index(x[1]))[:_MOST_ROWS]:
        golden = worst_golden(test) or {}
        cells = [_symbol(verdict), test["test"], verdict, *_finding_cells(golden, line)]
        lines.append("| " + " | ".join(map(cell, cells)) + " |")
    if len(told) > _MOST_ROWS:
        lines += ["", f"... and {len(told) - _MOST_ROWS} more"]
    moved = dict.fromkeys(
        text for test in report["tests"] for g in test["goldens"] for text in versions_moved(g)
    )
    if moved:
        lines += ["", f"Moved since the goldens were written: {cell(', '.join(moved))}"]
    return "\n".join(lines) + "\n\n"


def _finding_cells(golden: dict[str, Any], line: str) -> Sequence[str]:
    if "start" not in golden:
        return (line, "", "")
    likely = "" if golden["is_certain"] else "likely "
    how_much = golden["change"]
    if golden["kind"] == "values":
        how_much = f"{size(float(golden['rel']))}, allowed {size(float(golden['allowed']))}"
    return (golden["start"], how_much, f"{likely}{golden['cause']}: {golden['evidence']}")


def _symbol(verdict: str) -> str:
    return _SYMBOLS["bad" if _is_bad(verdict) else "noise" if verdict == NOISE else "good"]


def cell(text: str) -> str:
    """Write a text that comes from goldens and tests so that Markdown takes it as text."""
    return visible(text).translate(_AS_TEXT)


_AS_TEXT = str.maketrans(
    {"<": "&lt;", ">": "&gt;", "&": "&amp;", **{letter: f"\\{letter}" for letter in "\\|`*_[]#~"}}
)


def table_summary(rows: Sequence[Sequence[str]], told: Sequence[str]) -> str:
    """Return Markdown with a table, its first row the head, and lines below it."""
    head, *body = rows
    lines = [head, ["-"] * len(head), *body]
    table = [
        "| " + " | ".join(cell(str(c)) if c != "-" else c for c in row) + " |" for row in lines
    ]
    shown = ["", "<details><summary>What is not the same</summary>", "", "<pre>"]
    shown += [html.escape(visible(line)) for line in told]
    closing = ["</pre>", "</details>", ""]
    return "\n".join([*table, *(shown + closing if told else [""])]) + "\n"
