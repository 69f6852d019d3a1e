"""``pytest-nnsight upgrade``: check the goldens under other versions of libraries."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_path

from pytest_nnsight.cli.output import check_output_file, print_progress, write_page
from pytest_nnsight.report.github import table_summary
from pytest_nnsight.upgrade.requirements import combinations, find_pins, package_of, read_pins
from pytest_nnsight.upgrade.table import exit_code, table_json, table_lines, table_rows
from pytest_nnsight.upgrade.upgrade_run import UpgradeRunner

HELP = "check the goldens under other library versions, each in a fresh environment"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``upgrade``."""
    parser.add_argument(
        "--with",
        dest="requirements",
        action="append",
        required=True,
        metavar="PACKAGE==VERSION",
        help="a version to try; repeat it for more. Versions of one package are tried one by one, "
        "versions of different packages in every combination",
    )
    for name, kind in (("json", "JSON"), ("html", "an HTML page")):
        parser.add_argument(
            f"--{name}", type=Path, metavar="FILE", help=f"write all results to FILE, as {kind}"
        )
    add_environment_arguments(parser)


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


def make_runner(
    options: argparse.Namespace, pytest_arguments: list[str], varied: Sequence[str]
) -> UpgradeRunner:
    """Return the runner of the tests here; ignore the pins of packages that are ``varied``."""
    folder = Path.cwd()
    path = options.constraint or find_pins(folder)
    packages = {package_of(requirement) for requirement in varied}
    pins = read_pins(path, packages) if path is not None else []
    cache = options.cache or user_cache_path("pytest-nnsight") / "environments"
    return UpgradeRunner(folder, pytest_arguments, pins, cache, print_progress)


def run(options: argparse.Namespace, pytest_arguments: list[str]) -> int:
    """Run the tests under each combination, print a table, return 1 where a golden drifts."""
    planned = combinations(options.requirements)
    runner = make_runner(options, pytest_arguments, options.requirements)
    check_output_file("--json", options.json)
    check_output_file("--html", options.html)
    runs = [
        runner.run(combination, f"{number}/{len(planned)} {', '.join(combination)}")
        for number, combination in enumerate(planned, 1)
    ]
    if options.json is not None:
        options.json.write_text(json.dumps(table_json(runs), indent=1) + "\n", encoding="utf-8")
    if options.html is not None:
        write_page(table_json(runs), options.html)
    lines = [*table_lines(runs)]
    for line in lines:
        print(line)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        details = lines[len(runs) + 2 :]  # the lines after the table
        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
            file.write(table_summary(table_rows(runs), details))
    return exit_code(runs)
