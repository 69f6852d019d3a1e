"""``pytest-nnsight report``: print a JSON report, or draw it on an HTML page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pytest_nnsight.cli.output import write_page
from pytest_nnsight.errors import UsageError
from pytest_nnsight.report.outcomes import read_report
from pytest_nnsight.report.terminal import session_lines
from pytest_nnsight.upgrade.table import read_upgrade_runs, table_lines

HELP = "print a JSON report of a test session or of an upgrade, or turn it into an HTML page"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``report``."""
    parser.add_argument(
        "report",
        type=Path,
        help="a .json file written by pytest --nnsight-report or pytest-nnsight upgrade --json",
    )
    parser.add_argument(
        "--html",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FILE",
        help="write an HTML page to FILE and print nothing (default FILE: REPORT.html)",
    )


def run(options: argparse.Namespace, pytest_arguments: list[str]) -> int:
    """Print the report or write its page; raise `UsageError` if the report is damaged."""
    document = read_report(options.report, ("report", "upgrade"))
    try:
        if options.html is not None:
            default = options.report.with_suffix(".html")
            write_page(document, default if options.html == Path() else options.html)
        elif document["kind"] == "upgrade":
            for text in table_lines(read_upgrade_runs(document)):
                print(text)
        else:
            for line in session_lines(document, 1, sys.stdout.encoding):
                print(line.text)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{options.report} is damaged: {type(error).__name__} {error}") from None
    return 0
