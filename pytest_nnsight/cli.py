"""The ``pytest-nnsight`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_nnsight import __version__
from pytest_nnsight.errors import GoldenError, NnsightPluginError, visible
from pytest_nnsight.golden.document import decode
from pytest_nnsight.golden.storage import read_text
from pytest_nnsight.report.golden_text import golden_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 0 fine, 2 a user's mistake."""
    parser = argparse.ArgumentParser(prog="pytest-nnsight", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print what a golden holds")
    show.add_argument("golden", type=Path, help="a .json file below golden/")
    chosen = parser.parse_args(arguments)
    try:
        _show(chosen.golden)
    except NnsightPluginError as error:
        print(visible(f"pytest-nnsight: {error}"), file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _show(path: Path) -> None:
    text = read_text(path)
    if text is None:
        raise GoldenError(f"there is no file {path}")
    for line in golden_lines(decode(text, str(path))):
        print(line)
