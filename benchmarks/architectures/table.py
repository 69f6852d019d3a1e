"""Judge the sessions, and print one row for each architecture."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.architectures.types import REASONS

Test = Mapping[str, Any]
"""One test in the JSON report of a session."""
Sessions = Mapping[str, Mapping[str, Sequence[Test]]]
"""For each session, and each model in it, its tests."""
COLUMNS = ("written", "checked", "eager", "2 threads", "bfloat16", "padded batch", "planted weight")
_PADDED = "test_padded_batch"


@dataclass(frozen=True, slots=True)
class Row:
    """One architecture: its calls for a short prompt, and what is wrong in each column."""

    model_type: str
    calls: int
    problems: Mapping[str, str]


def rows(types: Sequence[str], sessions: Sessions, planted: Mapping[str, str]) -> list[Row]:
    """Judge every column of every architecture."""
    return [_row(name, sessions, planted.get(f"tiny-{name}", "")) for name in types]


def _row(name: str, sessions: Sessions, planted: str) -> Row:
    tests = {session: found[name] for session, found in sessions.items()}
    goldens = [g for t in tests["checked"] if "short" in t["test"] for g in t["goldens"]]
    calls = [golden.get("calls", 0) for golden in goldens]
    problems = {
        "written": _first(_failures(tests["written"], "")),
        "checked": _first([*_failures(tests["checked"], _PADDED), *_changed(tests["checked"])]),
        "eager": _first(_failures(tests["eager"], _PADDED)),
        "2 threads": _first(_failures(tests["2 threads"], _PADDED)),
        "bfloat16": _first(
            [*_failures(tests["bfloat16 written"], ""), *_failures(tests["bfloat16"], _PADDED)]
        ),
        "padded batch": _first(
            f"{session}: {test['line']}"
            for session in ("checked", "eager", "2 threads", "bfloat16")
            for test in tests[session]
            if _PADDED in test["test"] and test["outcome"] not in ("passed", "skipped")
        ),
        "planted weight": _named_wrongly(tests["planted"], planted),
    }
    return Row(name, max(calls, default=0), problems)


def _first(found: Iterable[str]) -> str:
    return next(iter(found), "")


def _failures(tests: Sequence[Test], left_out: str) -> Iterator[str]:
    if not tests:
        yield "no test ran"
    for test in tests:
        if test["outcome"] not in ("passed", "skipped") and not (
            left_out and left_out in test["test"]
        ):
            yield f"{_short(test)}: {test['line']}"


def _changed(tests: Sequence[Test]) -> Iterator[str]:
    """Yield the tests whose bits differ although nothing was changed."""
    for test in tests:
        if any(golden["verdict"] != "same" for golden in test["goldens"]):
            yield f"{_short(test)}: other bits"


def _short(test: Test) -> str:
    return str(test["test"]).rpartition("::")[2].partition("[")[0].removeprefix("test_")


def _named_wrongly(tests: Sequence[Test], planted: str) -> str:
    """Return the verdict if it does not name the module and the parameter that was changed."""
    if not tests or not tests[0]["goldens"]:
        return _first(_failures(tests, "")) or "not found"
    golden = tests[0]["goldens"][0]
    if golden["verdict"] != "drift":
        return f"{planted} was changed: {golden['verdict']}"
    where = planted.rpartition(".")[0]
    called = golden["detail"]["modules"]["path"]
    while where not in called and "." in where:  # its parent computes with its weights
        where = where.rpartition(".")[0]
    is_named = golden["where"] == where and golden["cause"] == "weights"
    if is_named and golden["is_certain"] and planted in golden["evidence"]:
        return ""
    return f"{planted} was changed: {tests[0]['line']}"


def reason_for(problem: str) -> str:
    """Return why a problem remains; empty if nobody has explained it."""
    return next((reason for pattern, reason in REASONS if re.search(pattern, problem)), "")


def page(found: Sequence[Row], head: str, builds: Mapping[str, str]) -> str:
    """Return the table and the list of what is red, as Markdown."""
    lines = [head, "", f"| model type | calls | {' | '.join(COLUMNS)} |"]
    lines.append("|---|---:|" + "---|" * len(COLUMNS))
    for row in found:
        cells = ["**no**" if row.problems[column] else "ok" for column in COLUMNS]
        lines.append(f"| {row.model_type} | {row.calls} | {' | '.join(cells)} |")
    lines += ["", "## What is red", ""]
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in found:
        for column, problem in row.problems.items():
            if problem:
                groups.setdefault((column, reason_for(problem)), []).append(
                    (row.model_type, problem)
                )
    for (column, reason), cases in groups.items():
        names = ", ".join(f"`{name}`" for name, _ in cases)
        shown = cases[:1] if reason else cases
        problems = [f"{name} {problem}"[:300] for name, problem in shown]
        reason = reason or "Not explained yet."
        lines += [f"**{column}**: {names}. {reason}", "", "```text", *problems, "```", ""]
    failed = {model_type: reason for model_type, reason in builds.items() if reason}
    lines += ["## Types that cannot be built", ""]
    count = f"{len(builds) - len(failed)} of {len(builds)}"
    lines += [f"{count} types can be built and run on text alone. The others, with the reason:", ""]
    lines += [f"- `{model_type}`: {reason}" for model_type, reason in failed.items()]
    return "\n".join(lines) + "\n"
