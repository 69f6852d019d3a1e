"""Records of a test -> what pytest-html shows beside it."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from pytest_nnsight.report.terminal import sparkline, versions_moved


def extras_of(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return extras as pytest-html takes them: the verdict as HTML, and the record as JSON."""
    from pytest_html import extras

    found = []
    for record in records:
        told = [record["verdict"], record.get("line", ""), ", ".join(versions_moved(record))]
        if record.get("depth"):
            told.append(f"drift over depth {sparkline(record['depth'])}")
        lines = "<br>".join(html.escape(line) for line in told if line)
        found.append(extras.html(f"<p>{lines}</p>"))
        found.append(extras.json(json.dumps(record, indent=1), name=f"nnsight {record['golden']}"))
    return found
