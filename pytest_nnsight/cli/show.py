"""``pytest-nnsight show``: print one golden, or draw it on an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_nnsight.cli.output import write_page
from pytest_nnsight.errors import GoldenError
from pytest_nnsight.golden.document import decode
from pytest_nnsight.golden.storage import read_text
from pytest_nnsight.report.golden_text import golden_lines
from pytest_nnsight.report.record import build_detail

HELP = "print a golden: its model, prompt, tokens and the shape of every call"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``show``."""
    parser.add_argument("golden", type=Path, help="a .json file in the golden folder")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write an HTML page to FILE and print nothing"
    )


def run(options: argparse.Namespace, pytest_arguments: list[str]) -> int:
    """Print the golden or write its page."""
    text = read_text(options.golden)
    if text is None:
        raise GoldenError(f"there is no file {options.golden}")
    golden = decode(text, str(options.golden))
    if options.html is not None:
        document = {"kind": "golden", "golden": options.golden.name, "detail": build_detail(golden)}
        write_page(document, options.html)
        return 0
    for line in golden_lines(golden):
        print(line)
    return 0
