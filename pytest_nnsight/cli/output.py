"""Files and progress that subcommands write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pytest_nnsight.errors import UsageError


def check_output_file(option: str, path: Path | None) -> None:
    """Raise `UsageError` if a file cannot be written at ``path``, before the work starts."""
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"{option}: there is no folder {path.parent}; create it first")
    if path is not None and path.is_dir():
        raise UsageError(f"{option}: {path} is a folder; give a file path")


def write_page(document: dict[str, Any], path: Path) -> None:
    """Write a report, or the details of a golden, as one HTML page."""
    from pytest_nnsight.report.page import render_page

    text = render_page(document)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    print(f"wrote {path}", file=sys.stderr)


def print_progress(text: str) -> None:
    """Print progress on standard error; add no newline."""
    print(text, end="", file=sys.stderr, flush=True)
