"""``pytest-nnsight bisect``: find the first release of a package that changes the goldens."""

from __future__ import annotations

import argparse

from pytest_nnsight.cli.upgrade import add_environment_arguments, make_runner
from pytest_nnsight.upgrade.bisect import bisect, release_date, releases_between
from pytest_nnsight.upgrade.table import result_lines
from pytest_nnsight.upgrade.upgrade_run import UpgradeRun

HELP = "find the first release of a package that changes the goldens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bisect``."""
    parser.add_argument("package", help="the package to search, such as transformers")
    parser.add_argument("good", help="a release before the change, such as 5.2.0")
    parser.add_argument("bad", help="a release after the change, such as 5.23.0")
    parser.add_argument(
        "--with",
        dest="requirements",
        action="append",
        default=[],
        metavar="PACKAGE==VERSION",
        help="install this version of another package in every environment; repeat it for more",
    )
    add_environment_arguments(parser)


def run(options: argparse.Namespace, pytest_arguments: list[str]) -> int:
    """Bisect the releases; print the first one that differs and the results under it."""
    package = options.package
    runner = make_runner(options, pytest_arguments, (package, *options.requirements))

    def try_release(release: str) -> UpgradeRun:
        requirements = (f"{package}=={release}", *options.requirements)
        return runner.run(requirements, f"{package} {release}")

    found = bisect(
        releases_between(package, options.good, options.bad), try_release, runner.progress
    )
    date = release_date(package, found.first)
    dated = f"{package} {found.first}, of {date}," if date else f"{package} {found.first}"
    effect = "changes the goldens" if found.is_worse else "gives what the goldens hold"
    skipped = ", ".join(found.skipped)
    gap = f" ({skipped} between cannot be installed)" if skipped else ""
    print(f"{dated} is the first that {effect}{gap};")
    print(f"with {found.first if found.is_worse else found.before}:")
    for line in result_lines(found.upgrade_run):
        print(line)
    return 0
