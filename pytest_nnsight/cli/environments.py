"""The options and the environments that ``upgrade`` and ``bisect`` share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nnsight.cli.output import print_progress

if TYPE_CHECKING:
    from pytest_nnsight.upgrade.upgrade_run import UpgradeRunner


def add_environment_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how environments are made."""
    parser.add_argument(
        "--constraint",
        type=Path,
        metavar="FILE",
        help="install the versions pinned in FILE for all other packages "
        "(default: constraints.txt or the lock file in the current folder)",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="keep the environments in FOLDER and reuse them (default: the user cache folder)",
    )


def make_bench(
    options: argparse.Namespace, pytest_arguments: list[str], varied: Sequence[str]
) -> UpgradeRunner:
    """Return the bench that runs the tests of the current folder in other environments.

    ``varied`` are the requirements to try; the pins of their packages are ignored.
    """
    from platformdirs import user_cache_path

    from pytest_nnsight.upgrade.requirements import find_pins, package_of, read_pins
    from pytest_nnsight.upgrade.upgrade_run import UpgradeRunner

    folder = Path.cwd()
    path = options.constraint or find_pins(folder)
    packages = {package_of(requirement) for requirement in varied}
    pins = read_pins(path, packages) if path is not None else []
    cache = options.cache or user_cache_path("pytest-nnsight") / "environments"
    return UpgradeRunner(folder, pytest_arguments, pins, cache, print_progress)
