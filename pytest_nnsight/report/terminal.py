"""Write the section at the end of a session: what drifts, where, how much, and why."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pytest_nnsight.errors import visible
from pytest_nnsight.report import outcomes
from pytest_nnsight.report.failure import format_size

_BARS, _PLAIN_BARS = "\u00b7\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588", " .:-=+*#@"
_SETTINGS = ("device", "dtype", "attention", "threads")
_DECADES = 4  # of drift, which the bars show below the largest drift
_MOST_GROUPS, _MOST_TESTS, _MOST_TESTS_OF_CHANGE = 8, 3, 20
_COUNTED = {
    outcomes.SAME: "the same bit by bit",
    outcomes.NOISE: "within tolerance",
    outcomes.STRUCTURE: "structure only",
}
_HEADINGS = {
    "differ": "within tolerance, but not equal bit by bit (--nnsight-exact makes this fail):",
    "unchecked": "not checked bit by bit, because the environment differs from the golden's:",
    "tie": "another token in a near tie, later calls not compared (--nnsight-tokens=exact: fails):",
}

_STRUCTURE_HEADINGS = {
    False: f"{outcomes.STRUCTURE_ONLY} (write them with --snapshot-update, or accept such changes "
    "with --nnsight-structure=values):",
    True: "other structure, accepted because all values are equal:",
}


class Line(NamedTuple):
    """Hold one line; ``is_good`` is ``None`` for neither good nor bad news."""

    text: str
    is_good: bool | None = None


def session_lines(report: dict[str, Any], verbosity: int, encoding: str) -> Iterator[Line]:
    """Yield the lines about a session; none if no golden was compared and no test died.

    ``encoding`` is the one of the terminal.
    """
    counted = count_line(report)
    if counted is not None:
        yield counted
    if verbosity < 0:
        return
    yield from (Line(visible(text)) for text in _note_lines(report))
    groups = _groups(report)
    most = len(groups) if verbosity > 1 else _MOST_GROUPS
    for tests in groups[:most]:
        first, *lines = map(visible, _group_lines(tests, verbosity, bars_for(encoding)))
        yield from (Line(first, is_good=False), *map(Line, lines))
    if len(groups) > most:
        yield Line(f"... and {len(groups) - most} more kinds of failure (-vv shows them)")
    yield from _structure_lines(report, verbosity)


def _structure_lines(report: dict[str, Any], verbosity: int) -> Iterator[Line]:
    """Yield the changes of the structure alone, those that fail tests before the accepted ones."""
    most = sys.maxsize if verbosity > 1 else _MOST_TESTS_OF_CHANGE
    changes = outcomes.structural_changes(report)
    for is_accepted, heading in _STRUCTURE_HEADINGS.items():
        if found := [change for change in changes if change["is_accepted"] == is_accepted]:
            yield Line(heading, None if is_accepted else False)
            yield from (Line(visible(text)) for text in change_lines(found, most))


def change_lines(changes: Sequence[dict[str, Any]], most: int = sys.maxsize) -> Iterator[str]:
    """Yield two lines about each change of the structure, with up to ``most`` of its tests."""
    for change in changes:
        tests = change["tests"]
        count = f"{len(tests)} test{'s' * (len(tests) > 1)}"
        yield f"  {change['change']}, first at {change['start']} ({change['evidence']}), {count}:"
        more = f" and {len(tests) - most} more" if len(tests) > most else ""
        yield f"    {', '.join(tests[:most])}{more}"


def count_line(report: dict[str, Any]) -> Line | None:
    """Return the number of goldens by verdict, ``None`` if none was compared."""
    verdicts = [golden["verdict"] for test in report["tests"] for golden in test["goldens"]]
    if not verdicts:
        return None
    counts = outcomes.count_verdicts(verdicts)
    text = ", ".join(f"{n} {_COUNTED.get(verdict, verdict)}" for verdict, n in counts.items())
    is_good = not any(map(outcomes.is_bad, counts))
    return Line(f"{len(verdicts)} golden{'s' * (len(verdicts) > 1)}: {text}", is_good)


def _note_lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the notes of all tests, and remarks about tests that passed."""
    tests = report["tests"]
    notes = [(test["test"], note) for test in tests for note in test.get("notes", ())]
    sections = {"notes (they do not fail a test):": notes}
    passed = [test for test in tests if test["outcome"] == "passed"]
    goldens = [(test["test"], golden) for test in passed for golden in test["goldens"]]
    for key, heading in _HEADINGS.items():
        sections[heading] = [(name, golden[key]) for name, golden in goldens if golden.get(key)]
    for heading, rows in sections.items():
        if rows:
            yield heading
            yield from (f"  {name}: {text}" for name, text in rows)


def _groups(report: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the failing tests, the worst first; those with the same start and cause together."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for test, verdict, line in outcomes.tests_worst_first(report):
        if outcomes.is_bad(verdict) and verdict not in (outcomes.ERROR, outcomes.STRUCTURE):
            golden = outcomes.worst_golden(test) or {}
            keys = ("where", "cause", "evidence") if "where" in golden else ("line",)
            key = (verdict, golden.get("model"), *(golden.get(name, line) for name in keys))
            groups.setdefault(key, []).append(test)
    return list(groups.values())


def _group_lines(tests: Sequence[dict[str, Any]], verbosity: int, bars: str) -> Iterator[str]:
    """Yield the lines about tests that fail in the same way, with the golden of the first."""
    verdict, line = outcomes.verdict_of(tests[0])
    golden, command = outcomes.worst_golden(tests[0]) or {}, tests[0].get("command", "")
    first, *others = [test["test"] for test in tests]
    yield f"{verdict.upper()} {first}"
    if others:
        most = len(others) if verbosity > 1 else _MOST_TESTS
        more = f" and {len(others) - most} more" if len(others) > most else ""
        yield f"  also {', '.join(others[:most])}{more}"
    lines = _diagnosis_lines(golden) if "start" in golden else [line]
    yield from (f"  {text}" for text in lines)
    if depth := golden.get("depth"):
        largest = format_size(max(float(value or 0.0) for value in depth))
        yield f"  depth  {sparkline(depth, bars)}  first to last module, largest {largest}"
    for number, call in enumerate(golden.get("worst", ())):
        heading = "     " if number else "worst"
        yield f"  {heading}  {call['label']} {format_size(float(call['rel']))}"
    if command:
        yield f"  rerun  {command}"
    if command and verdict == golden.get("verdict"):  # else it hung or crashed
        when = "write it" if verdict == outcomes.MISSING else "if this is right"
        yield f"  {when}: {command} --snapshot-update"


def _diagnosis_lines(golden: dict[str, Any]) -> Iterator[str]:
    where = golden["start"]
    if golden["where"] not in ("prompt", "generated") and golden["where"] not in where:
        where = f"{golden['where']}, before {where}"
    calls = f"{golden['drifted']} of {golden['calls']} calls, " if golden["drifted"] else ""
    yield f"{calls}from {where}: {change_text(golden)}"
    likely = "" if golden["is_certain"] else "likely "
    yield f"{likely}cause: {golden['cause']} ({golden['evidence']})"
    changes = ", ".join(environment_changes(golden))
    if changes and changes not in golden["evidence"]:
        yield changes


def change_text(golden: dict[str, Any]) -> str:
    """Return what differs where a drift starts: ``rel 4.9e-3, allowed 1e-5``, or old and new."""
    if golden["kind"] != "values":
        return str(golden["change"])
    rel, allowed = (format_size(float(golden[key])) for key in ("rel", "allowed"))
    return f"rel {rel}, allowed {allowed}"


def environment_changes(golden: dict[str, Any]) -> list[str]:
    """Return what differs between the environments of golden and run: ``torch 2.6 -> 2.7``."""
    then, now = golden.get("then"), golden.get("now")
    if not then or not now:
        return []
    names = {**then["versions"], **now["versions"], **dict.fromkeys(_SETTINGS)}
    old, new = ({**side, **side["versions"]}.get for side in (then, now))
    return [f"{n} {old(n) or 'absent'} -> {new(n) or 'absent'}" for n in names if old(n) != new(n)]


def bars_for(encoding: str) -> str:
    """Return bars that an encoding can write: the one for equal bits, then the lowest first."""
    try:
        _BARS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _PLAIN_BARS
    return _BARS


def sparkline(values: Sequence[float | str | None], bars: str = _BARS) -> str:
    """Draw drifts as bars on a logarithmic scale of four decades; a dot means equal bits."""
    numbers = [float(value or 0.0) for value in values]
    high = math.log10(max((value for value in numbers if 0 < value < math.inf), default=1.0))
    equal, others = bars[0], bars[1:]

    def bar(value: float) -> str:
        if value <= 0:
            return equal
        share = 1 + (min(math.log10(value), high) - high) / _DECADES
        return others[max(0, min(len(others) - 1, int(share * len(others))))]

    return "".join(map(bar, numbers))
