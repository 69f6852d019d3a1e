"""Write ``docs/coverage.md`` from the outcomes of several runs of ``tests/features``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

HEAD = """# What is covered

`make coverage` writes this page: the tests of `tests/features`, each with its own golden or
assertion, on every supported nnsight. If a version cannot do something, the reason is below the
table. Failures are bold.

"""
Outcomes = dict[str, dict[str, dict[str, Any]]]


def main(source: Path, target: Path) -> None:
    """Write the table of all outcomes in a folder."""
    outcomes: Outcomes = {}
    for path in sorted(source.glob("nnsight-*.json")):
        version = path.stem.removeprefix("nnsight-")
        outcomes[version] = {row["test"]: row for row in json.loads(path.read_text())}
    target.write_text(HEAD + _counts(outcomes) + table(outcomes), encoding="utf-8")


def table(outcomes: Outcomes) -> str:
    """Return a row for each feature, with a column for each version, and the reasons below.

    Tests of one feature on one model, such as those of several parameters, are one row.
    """
    named: dict[tuple[str, str, str], list[str]] = {}
    for rows in outcomes.values():
        for test, row in sorted(rows.items()):
            tests = named.setdefault((row["feature"], row["what"], row["model"]), [])
            tests += [] if test in tests else [test]
    lines = [
        f"| feature | what | model | {' | '.join(outcomes)} |",
        "|---" * (3 + len(outcomes)) + "|",
    ]
    reasons: list[str] = []
    before = ""
    for (feature, what, model), tests in sorted(named.items(), key=lambda item: item[0][0]):
        cells = [_cells([rows.get(t) for t in tests], reasons) for rows in outcomes.values()]
        shown = "" if feature == before else feature
        lines.append(f"| {shown} | {what} | {model} | {' | '.join(cells)} |")
        before = feature
    footnotes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *footnotes]) + "\n"


def _counts(outcomes: Outcomes) -> str:
    """Return how many tests passed, were skipped and failed on each version."""
    counts = {v: Counter(row["outcome"] for row in rows.values()) for v, rows in outcomes.items()}
    parts = [
        f"nnsight {v}: {c['passed']} passed, {c['skipped']} left out, {c['failed']} failed"
        for v, c in counts.items()
    ]
    return "; ".join(parts) + ".\n\n"


def _cells(rows: list[dict[str, Any] | None], reasons: list[str]) -> str:
    return ", ".join(dict.fromkeys(_cell(row, reasons) for row in rows))


def _cell(row: dict[str, Any] | None, reasons: list[str]) -> str:
    if row is None:
        return ""
    if row["outcome"] == "passed" and not row["why"]:
        return "yes"
    if row["outcome"] == "failed":
        return "**fails**"
    reason = row["why"].removeprefix("Skipped: ")
    if reason not in reasons:
        reasons.append(reason)
    return f"no ({reasons.index(reason) + 1})"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
