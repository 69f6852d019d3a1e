"""The ``pytest-nnsight`` command: one subcommand in each module, the parser and `main` here.

`show` and `report` work without torch: no module here may import torch, transformers or nnsight.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from pytest_nnsight import __version__
from pytest_nnsight.cli import bisect, diff, report, show, upgrade
from pytest_nnsight.errors import NnsightPluginError, visible

COMMANDS = {"show": show, "report": report, "diff": diff, "upgrade": upgrade, "bisect": bisect}
"""The modules of the subcommands: each defines ``HELP``, ``add_arguments`` and ``run``."""
RUN_PYTEST = ("upgrade", "bisect")  # these pass the arguments after -- to pytest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 2 for a wrong argument or a bad file."""
    own_arguments = list(sys.argv[1:] if arguments is None else arguments)
    pytest_arguments = []
    if "--" in own_arguments:  # ours before it, pytest's after it
        index = own_arguments.index("--")
        own_arguments, pytest_arguments = own_arguments[:index], own_arguments[index + 1 :]
    parser = _make_parser()
    options = parser.parse_args(own_arguments)
    if pytest_arguments and options.command not in RUN_PYTEST:
        parser.error(f"{options.command} does not run pytest; remove -- and the arguments after it")
    try:
        code: int = COMMANDS[options.command].run(options, pytest_arguments)
        return code
    except NnsightPluginError as error:
        print(visible(f"pytest-nnsight: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npytest-nnsight: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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
