"""``pytest-nnsight upgrade``: check the goldens under other versions of libraries."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from pytest_nnsight.cli.environments import add_environment_arguments, make_bench
from pytest_nnsight.cli.output import check_output_file, write_page

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
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all results to FILE, as JSON"
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write all results to FILE, as an HTML page"
    )
    add_environment_arguments(parser)


def run(options: argparse.Namespace, pytest_arguments: list[str]) -> int:
    """Run the tests under each combination, print a table, return 1 where a golden drifts."""
    from pytest_nnsight.upgrade.requirements import combinations
    from pytest_nnsight.upgrade.table import exit_code, table_json, table_lines, table_rows

    planned = combinations(options.requirements)
    bench = make_bench(options, pytest_arguments, options.requirements)
    check_output_file("--json", options.json)
    check_output_file("--html", options.html)
    runs = [
        bench.run(combination, f"{number}/{len(planned)} {', '.join(combination)}")
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
        from pytest_nnsight.report.github import table_summary

        details = lines[len(runs) + 2 :]  # the lines after the table
        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
            file.write(table_summary(table_rows(runs), details))
    return exit_code(runs)
