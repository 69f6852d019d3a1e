"""The notes of several runs of ``tests/features`` -> ``docs/coverage.md``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = """# What is covered

Made by `make coverage`: the tests of `tests/features`, each with a golden or an assertion of its
own, on every supported nnsight. Where a version cannot do something, or does it otherwise, the
reason stands below the table; what fails is in bold.

"""
Notes = dict[str, dict[str, dict[str, Any]]]


def main(source: Path, target: Path) -> None:
    """Write the table of all notes in a folder."""
    notes: Notes = {}
    for path in sorted(source.glob("nnsight-*.json")):
        version = path.stem.removeprefix("nnsight-")
        notes[version] = {row["test"]: row for row in json.loads(path.read_text())}
    target.write_text(HEAD + table(notes), encoding="utf-8")


def table(notes: Notes) -> str:
    """Return one line for each test, a column for each version, and the reasons below."""
    rows = {test: row for version in notes.values() for test, row in version.items()}
    lines = [f"| feature | what | model | {' | '.join(notes)} |", "|---" * (3 + len(notes)) + "|"]
    reasons: list[str] = []
    before = ""
    for test, row in sorted(rows.items(), key=lambda item: (item[1]["feature"], item[0])):
        cells = [_cell(version.get(test), reasons) for version in notes.values()]
        feature = "" if row["feature"] == before else row["feature"]
        lines.append(f"| {feature} | {row['what']} | {row['model']} | {' | '.join(cells)} |")
        before = row["feature"]
    told = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *told]) + "\n"


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
