"""Show the comparisons of a test in the report of pytest-html."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from pytest_nnsight.report.terminal import environment_changes, sparkline


def pytest_html_extras(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return extras for pytest-html: each verdict as HTML, and each record as JSON."""
    from pytest_html import extras

    found = []
    for record in records:
        changes = ", ".join(environment_changes(record))
        lines = [record["verdict"], record.get("line", ""), changes]
        if record.get("depth"):
            lines.append(f"drift over depth {sparkline(record['depth'])}")
        text = "<br>".join(html.escape(line) for line in lines if line)
        found.append(extras.html(f"<p>{text}</p>"))
        found.append(extras.json(json.dumps(record, indent=1), name=f"nnsight {record['golden']}"))
    return found
