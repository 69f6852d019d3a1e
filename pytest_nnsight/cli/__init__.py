"""The ``pytest-nnsight`` command: one subcommand in each module, the parser and `main` here.

In: command line arguments. Out: text, files and an exit code. `show` and `report` work without
torch, so no module here may import torch, transformers or nnsight.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from pytest_nnsight import __version__
from pytest_nnsight.cli import bisect, diff, report, show, upgrade
from pytest_nnsight.errors import NnsightPluginError, visible


class Command(Protocol):
    """What the module of a subcommand defines."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of the subcommand to its parser."""

    def run(self, options: argparse.Namespace, pytest_arguments: list[str]) -> int:
        """Run the subcommand and return the exit code."""


COMMANDS: dict[str, Command] = {
    "show": show,
    "report": report,
    "diff": diff,
    "upgrade": upgrade,
    "bisect": bisect,
}
RUN_PYTEST = ("upgrade", "bisect")
"""The subcommands that pass the arguments after ``--`` to pytest."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 2 for a wrong argument or a bad file."""
    own_arguments, pytest_arguments = _split(list(sys.argv[1:] if arguments is None else arguments))
    parser = _make_parser()
    options = parser.parse_args(own_arguments)
    if pytest_arguments and options.command not in RUN_PYTEST:
        parser.error(f"{options.command} does not run pytest; remove -- and the arguments after it")
    try:
        return COMMANDS[options.command].run(options, pytest_arguments)
    except NnsightPluginError as error:
        print(visible(f"pytest-nnsight: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npytest-nnsight: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split the arguments at the first ``--``: ours before it, pytest's after it."""
    if "--" not in arguments:
        return arguments, []
    index = arguments.index("--")
    return arguments[:index], arguments[index + 1 :]


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-nnsight",
        description="Read goldens and reports, compare models, check goldens on other versions.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        command.add_arguments(
            subparsers.add_parser(name, help=command.HELP, description=f"{command.HELP}.")
        )
    return parser
