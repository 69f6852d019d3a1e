"""Write the section at the end of a session: what drifts, where, how much, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_nnsight.errors import visible
from pytest_nnsight.report.failure import format_size
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
_EQUAL = {_BARS: "\u00b7", _PLAIN_BARS: " "}
_DECADES = 4  # of drift, which the bars show below the largest drift
_SHOWN = (DRIFT, STRUCTURE, MISSING, HUNG, CRASHED)
_MOST_GROUPS, _MOST_TESTS = 8, 3
_COUNTED = {SAME: "the same bit by bit", NOISE: "within tolerance"}
_HEADINGS = {
    "differ": "within tolerance, but not equal bit by bit (--nnsight-exact makes this fail):",
    "unchecked": "not checked bit by bit, because the environment differs from the golden's:",
    "tie": "another token in a near tie, later calls not compared (--nnsight-tokens=exact: fails):",
}


@dataclass(frozen=True, slots=True)
class Line:
    """Hold one line; ``is_good`` is ``None`` for neither good nor bad news."""

    text: str
    is_good: bool | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    """Hold the tests that fail in the same way, and the worst golden of the first one."""

    verdict: str
    line: str
    command: str
    golden: dict[str, Any]
    tests: tuple[str, ...]


def session_lines(report: dict[str, Any], verbosity: int, encoding: str) -> Iterator[Line]:
    """Yield the lines about a session; none if no golden was compared and no test died.

    ``encoding`` is the one of the terminal.
    """
    counted = count_line(report)
    if counted is not None:
        yield counted
    if verbosity < 0:
        return
    yield from _note_lines(report)
    groups = _groups(report)
    most = len(groups) if verbosity > 1 else _MOST_GROUPS
    for group in groups[:most]:
        yield from _group_lines(group, verbosity, bars_for(encoding))
    if len(groups) > most:
        yield Line(f"... and {len(groups) - most} more kinds of failure (-vv shows them)")


def count_line(report: dict[str, Any]) -> Line | None:
    """Return the number of goldens by verdict, ``None`` if none was compared."""
    verdicts = [golden["verdict"] for test in report["tests"] for golden in test["goldens"]]
    if not verdicts:
        return None
    counts = [(verdict, verdicts.count(verdict)) for verdict in reversed(VERDICTS)]
    text = ", ".join(f"{n} {_COUNTED.get(verdict, verdict)}" for verdict, n in counts if n)
    is_good = all(verdict in (SAME, NOISE) for verdict in verdicts)
    return Line(f"{len(verdicts)} golden{'s' * (len(verdicts) > 1)}: {text}", is_good)


def _note_lines(report: dict[str, Any]) -> Iterator[Line]:
    """Yield the notes of all tests, and remarks about tests that passed."""
    notes = [
        f"  {test['test']}: {note}" for test in report["tests"] for note in test.get("notes", ())
    ]
    if notes:
        yield Line("notes (they do not fail a test):")
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


def _groups(report: dict[str, Any]) -> list[_Group]:
    """Return the failures, the worst first; tests with the same start and cause are one group."""
    groups: dict[tuple[Any, ...], _Group] = {}
    for test in report["tests"]:
        verdict, line = verdict_of(test)
        if verdict not in _SHOWN:
            continue
        golden = worst_golden(test) or {}
        keys = ("where", "cause", "evidence") if "where" in golden else ("line",)
        key = (verdict, golden.get("model"), *(golden.get(name, line) for name in keys))
        command = test.get("command", "")
        group = groups.get(key, _Group(verdict, line, command, golden, ()))
        groups[key] = replace(group, tests=(*group.tests, test["test"]))
    return sorted(groups.values(), key=lambda group: -VERDICTS.index(group.verdict))


def _group_lines(group: _Group, verbosity: int, bars: str) -> Iterator[Line]:
    most = len(group.tests) if verbosity > 1 else _MOST_TESTS
    first, *others = group.tests
    yield Line(visible(f"{group.verdict.upper()} {first}"), is_good=False)
    if others:
        more = f" and {len(others) - most} more" if len(others) > most else ""
        yield Line(visible(f"  also {', '.join(others[:most])}{more}"))
    golden = group.golden
    if "start" not in golden:
        yield Line(visible(f"  {group.line}"))
    else:
        yield from (Line(visible(f"  {line}")) for line in _diagnosis_lines(golden))
    if golden.get("depth"):
        yield Line(f"  depth  {sparkline(golden['depth'], bars)}  {_span(golden)}")
    for number, call in enumerate(golden.get("worst", ())):
        text = f"{call['label']} {format_size(float(call['rel']))}"
        yield Line(visible(f"  {'worst' if number == 0 else '     '}  {text}"))
    if group.command:
        yield Line(visible(f"  rerun  {group.command}"))
    if group.verdict in (DRIFT, STRUCTURE, MISSING) and group.command:
        when = "write it" if group.verdict == MISSING else "if this is right"
        yield Line(visible(f"  {when}: {group.command} --snapshot-update"))


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
    names = [*dict.fromkeys((*then["versions"], *now["versions"]))]
    pairs = [(n, then["versions"].get(n), now["versions"].get(n)) for n in names]
    pairs += [(n, then[n], now[n]) for n in ("device", "dtype", "attention", "threads")]
    return [f"{n} {old or 'absent'} -> {new or 'absent'}" for n, old, new in pairs if old != new]


def bars_for(encoding: str) -> str:
    """Return bars that an encoding can write, the lowest first."""
    try:
        _BARS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return _PLAIN_BARS
    return _BARS


def sparkline(values: Sequence[float | str | None], bars: str = _BARS) -> str:
    """Draw drifts as bars on a logarithmic scale of four decades; a dot means equal bits."""
    numbers = [float(value or 0.0) for value in values]
    finite = [value for value in numbers if 0 < value < math.inf]
    high = math.log10(max(finite, default=1.0))

    def bar(value: float) -> str:
        if value <= 0:
            return _EQUAL[bars]
        share = 1 + (min(math.log10(value), high) - high) / _DECADES
        return bars[max(0, min(len(bars) - 1, int(share * len(bars))))]

    return "".join(bar(value) for value in numbers)


def _span(golden: dict[str, Any]) -> str:
    largest = max(float(value or 0.0) for value in golden["depth"])
    return f"first to last module, largest {format_size(largest)}"
