"""The report of a session -> the lines at its end: what drifts, where, how much, why, what next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_nnsight.errors import visible
from pytest_nnsight.report.failure import size
from pytest_nnsight.report.outcomes import (
    CRASHED,
    DRIFT,
    HUNG,
    MISSING,
    NOISE,
    SAME,
    STRUCTURE,
    VERDICTS,
    verdict_of,
    worst_golden,
)

_BARS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_PLAIN_BARS = ".:-=+*#@"
_NONE = {_BARS: "\u00b7", _PLAIN_BARS: " "}
_DECADES = 4  # of the bars, below the largest
_TOLD = (DRIFT, STRUCTURE, MISSING, HUNG, CRASHED)
_MOST_FINDINGS, _MOST_TESTS = 8, 3
_HEADINGS = {
    "differ": "bits differ, within tolerance (--nnsight-exact makes this fail):",
    "unchecked": "not checked bit by bit, since something else moves numbers:",
    "tie": "a near tie fell the other way, compared up to it (--nnsight-tokens=exact: fails):",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line, and whether it is good news, bad news, or neither (``None``)."""

    text: str
    is_good: bool | None = None


@dataclass(frozen=True, slots=True)
class _Finding:
    """Tests that end in the same way, with the golden of the first of them that tells of it."""

    verdict: str
    line: str
    command: str
    golden: dict[str, Any]
    tests: tuple[str, ...]


def session_lines(report: dict[str, Any], verbosity: int, letters: str) -> Iterator[Line]:
    """Yield the lines about a session; none where it compared nothing and nothing died.

    ``letters`` is the encoding of the terminal, by which the bars are chosen.
    """
    found = [(test, *verdict_of(test)) for test in report["tests"]]
    counted = count_line(report)
    noted = [*_noted(report)]
    if counted is None and not noted and not any(verdict in _TOLD for _, verdict, _ in found):
        return
    if counted is not None:
        yield counted
    if verbosity < 0:
        return
    yield from noted
    findings = _findings(report)
    most = len(findings) if verbosity > 1 else _MOST_FINDINGS
    for finding in findings[:most]:
        yield from _finding_lines(finding, verbosity, bars_for(letters))
    if len(findings) > most:
        yield Line(f"... and {len(findings) - most} more of another kind (-vv)")


def count_line(report: dict[str, Any]) -> Line | None:
    """Say what the goldens of a session came to, in one line."""
    verdicts = [golden["verdict"] for test in report["tests"] for golden in test["goldens"]]
    if not verdicts:
        return None
    counts = [(verdict, verdicts.count(verdict)) for verdict in reversed(VERDICTS)]
    told = ", ".join(f"{n} {_count_word(verdict)}" for verdict, n in counts if n)
    is_good = all(verdict in (SAME, NOISE) for verdict in verdicts)
    return Line(f"{len(verdicts)} golden{'s' * (len(verdicts) > 1)}: {told}", is_good)


def _count_word(verdict: str) -> str:
    return {SAME: "the same bit by bit", NOISE: "within tolerance"}.get(verdict, verdict)


def _noted(report: dict[str, Any]) -> Iterator[Line]:
    """Yield what is to be known of tests that passed, and the notes of all tests."""
    notes = [
        f"  {test['test']}: {note}" for test in report["tests"] for note in test.get("notes", ())
    ]
    if notes:
        yield Line("notes, which fail nothing:")
        yield from (Line(visible(note)) for note in notes)
    for name, heading in _HEADINGS.items():
        rows = [
            f"  {test['test']}: {golden[name]}"
            for test in report["tests"]
            for golden in test["goldens"]
            if test["outcome"] == "passed" and golden.get(name)
        ]
        if rows:
            yield Line(heading)
            yield from (Line(visible(row)) for row in rows)


def _findings(report: dict[str, Any]) -> list[_Finding]:
    """Return what is wrong, the worst first; tests of one start and cause together."""
    alike: dict[tuple[Any, ...], _Finding] = {}
    for test in report["tests"]:
        verdict, line = verdict_of(test)
        if verdict not in _TOLD:
            continue
        golden = worst_golden(test) or {}
        keys = ("where", "cause", "evidence") if "where" in golden else ("line",)
        key = (verdict, golden.get("model"), *(golden.get(name, line) for name in keys))
        command = test.get("command", "")
        found = alike.get(key, _Finding(verdict, line, command, golden, ()))
        alike[key] = replace(found, tests=(*found.tests, test["test"]))
    return sorted(alike.values(), key=lambda found: -VERDICTS.index(found.verdict))


def _finding_lines(finding: _Finding, verbosity: int, bars: str) -> Iterator[Line]:
    most = len(finding.tests) if verbosity > 1 else _MOST_TESTS
    first, *others = finding.tests
    yield Line(visible(f"{finding.verdict.upper()} {first}"), is_good=False)
    if others:
        more = f" and {len(others) - most} more" if len(others) > most else ""
        yield Line(visible(f"  so do {', '.join(others[:most])}{more}"))
    golden = finding.golden
    if "start" not in golden:
        yield Line(visible(f"  {finding.line}"))
    else:
        yield from (Line(visible(f"  {line}")) for line in _diagnosis_lines(golden))
    if golden.get("depth"):
        yield Line(f"  depth  {sparkline(golden['depth'], bars)}  {_span(golden)}")
    for number, call in enumerate(golden.get("worst", ())):
        told = f"{call['label']} {size(float(call['rel']))}"
        yield Line(visible(f"  {'worst' if number == 0 else '     '}  {told}"))
    if finding.command:
        yield Line(visible(f"  rerun  {finding.command}"))
    if finding.verdict in (DRIFT, STRUCTURE, MISSING) and finding.command:
        right = "write it" if finding.verdict == MISSING else "if this is right"
        yield Line(visible(f"  {right}: {finding.command} --snapshot-update"))


def _diagnosis_lines(golden: dict[str, Any]) -> Iterator[str]:
    where = golden["start"]
    if golden["where"] not in ("prompt", "generated") and golden["where"] not in where:
        where = f"{golden['where']}, before {where}"
    change = golden["change"]
    if golden["kind"] == "values":
        change = f"rel {size(float(golden['rel']))}, allowed {size(float(golden['allowed']))}"
    calls = f"{golden['drifted']} of {golden['calls']} calls, " if golden["drifted"] else ""
    yield f"{calls}from {where}: {change}"
    likely = "" if golden["is_certain"] else "likely "
    yield f"{likely}cause: {golden['cause']} ({golden['evidence']})"
    moved = ", ".join(versions_moved(golden))
    if moved and moved not in golden["evidence"]:
        yield moved


def versions_moved(golden: dict[str, Any]) -> list[str]:
    """List what the golden and the run were made with, where that differs."""
    then, now = golden.get("then"), golden.get("now")
    if not then or not now:
        return []
    names = [*dict.fromkeys((*then["versions"], *now["versions"]))]
    pairs = [(n, then["versions"].get(n), now["versions"].get(n)) for n in names]
    pairs += [(n, then[n], now[n]) for n in ("device", "dtype", "attention", "threads")]
    return [f"{n} {old or 'absent'} -> {new or 'absent'}" for n, old, new in pairs if old != new]


def bars_for(letters: str) -> str:
    """Return the bars that an encoding has letters for, the lowest first."""
    try:
        _BARS.encode(letters or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _PLAIN_BARS
    return _BARS


def sparkline(values: Sequence[float | str | None], bars: str = _BARS) -> str:
    """Draw drifts as bars, by logarithm over four decades; a dot for equal bits."""
    numbers = [float(value or 0.0) for value in values]
    finite = [value for value in numbers if 0 < value < math.inf]
    high = math.log10(max(finite, default=1.0))

    def bar(value: float) -> str:
        if value <= 0:
            return _NONE[bars]
        place = 1 + (min(math.log10(value), high) - high) / _DECADES
        return bars[max(0, min(len(bars) - 1, int(place * len(bars))))]

    return "".join(bar(value) for value in numbers)


def _span(golden: dict[str, Any]) -> str:
    largest = max(float(value or 0.0) for value in golden["depth"])
    return f"first to last module, up to {size(largest)}"
