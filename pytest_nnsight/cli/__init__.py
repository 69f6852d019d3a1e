"""The ``pytest-nnsight`` command."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_nnsight import __version__
from pytest_nnsight.errors import GoldenError, NnsightPluginError, UsageError, visible

if TYPE_CHECKING:
    from pytest_nnsight.upgrade.upgrade_run import UpgradeRunner


_BESIDE = Path("")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 2 for a user's mistake."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, rest = _split(given)
    chosen = _parser().parse_args(own)
    if rest and chosen.run in (_show, _report, _diff):
        _parser().error(f"what is behind -- is for pytest, which {chosen.command} does not run")
    try:
        return int(chosen.run(chosen, rest))
    except NnsightPluginError as error:
        print(visible(f"pytest-nnsight: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npytest-nnsight: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Part what is for pytest, behind ``--``, from our own."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pytest-nnsight", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="print what a golden holds")
    show.add_argument("golden", type=Path, help="a .json file below golden/")
    show.add_argument("--html", type=Path, metavar="FILE", help="draw it on a page")
    show.set_defaults(run=_show)
    report = commands.add_parser(
        "report", help="print the report of a session or an upgrade, or make a page of it"
    )
    report.add_argument("report", type=Path, help="what --nnsight-report or --json has written")
    report.add_argument(
        "--html",
        type=Path,
        nargs="?",
        const=_BESIDE,
        metavar="FILE",
        help="make a page (default: beside the report)",
    )
    report.set_defaults(run=_report)
    diff = commands.add_parser(
        "diff", help="compare two models, or two settings of one, with no golden"
    )
    diff.add_argument("first", help="a model spec, as --nnsight-model takes it")
    diff.add_argument("second")
    for name in ("first", "second"):
        text = f"how the {name} is loaded, like dtype=bfloat16,attn=eager"
        diff.add_argument(f"--{name}", dest=f"{name}_settings", default="", help=text)
    diff.add_argument("--prompt", action="append", default=[], help="may be given several times")
    diff.add_argument("--generate", type=int, default=0, metavar="N", help="generate N tokens too")
    diff.add_argument("--html", type=Path, metavar="FILE", help="draw it on a page")
    diff.set_defaults(run=_diff)
    upgrade = commands.add_parser(
        "upgrade", help="check the goldens under other versions, each in an environment of its own"
    )
    upgrade.add_argument(
        "--with",
        dest="requirements",
        action="append",
        required=True,
        metavar="PACKAGE==VERSION",
        help="a version to try; several of one package, and those of others, are combined",
    )
    upgrade.add_argument("--json", type=Path, metavar="FILE", help="write all there is to a file")
    upgrade.add_argument("--html", type=Path, metavar="FILE", help="draw it on a page")
    _add_environment(upgrade)
    upgrade.set_defaults(run=_upgrade)
    bisect = commands.add_parser(
        "bisect", help="find the first release of a package that changes the goldens"
    )
    bisect.add_argument("package")
    bisect.add_argument("good", help="a release before the change")
    bisect.add_argument("bad", help="a release after it")
    bisect.add_argument(
        "--with",
        dest="requirements",
        action="append",
        default=[],
        metavar="PACKAGE==VERSION",
        help="versions of other packages to hold to",
    )
    _add_environment(bisect)
    bisect.set_defaults(run=_bisect)
    return parser


def _add_environment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--constraint",
        type=Path,
        metavar="FILE",
        help="pins to keep to (default: constraints.txt or the lock file here)",
    )
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where environments are kept")


def _show(chosen: argparse.Namespace, rest: list[str]) -> int:
    from pytest_nnsight.golden.document import decode
    from pytest_nnsight.golden.storage import read_text
    from pytest_nnsight.report.golden_text import golden_lines

    text = read_text(chosen.golden)
    if text is None:
        raise GoldenError(f"there is no file {chosen.golden}")
    run = decode(text, str(chosen.golden))
    if chosen.html is not None:
        from pytest_nnsight.report.detail import build_detail

        _write_page(
            {"kind": "golden", "golden": chosen.golden.name, "detail": build_detail(run)},
            chosen.html,
        )
        return 0
    for line in golden_lines(run):
        print(line)
    return 0


def _report(chosen: argparse.Namespace, rest: list[str]) -> int:
    from pytest_nnsight.report.outcomes import read_report
    from pytest_nnsight.report.terminal import session_lines

    document = read_report(chosen.report, ("report", "upgrade"))
    try:
        if chosen.html is not None:
            beside = chosen.report.with_suffix(".html")
            _write_page(document, beside if chosen.html == _BESIDE else chosen.html)
        elif document["kind"] == "upgrade":
            from pytest_nnsight.upgrade.table import read_upgrade_runs, table_lines

            for text in table_lines(read_upgrade_runs(document)):
                print(text)
        else:
            for line in session_lines(document, 1, sys.stdout.encoding):
                print(line.text)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{chosen.report} is damaged: {type(error).__name__} {error}") from None
    return 0


def _write_page(document: dict[str, Any], path: Path) -> None:
    from pytest_nnsight.report.page import render_page

    text = render_page(document)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    print(f"wrote {path}", file=sys.stderr)


def _diff(chosen: argparse.Namespace, rest: list[str]) -> int:
    from pytest_nnsight.cli.diff import DEFAULT_PROMPT, Side, differences, report_of

    sides = (
        Side.read(chosen.first, chosen.first_settings),
        Side.read(chosen.second, chosen.second_settings),
    )
    _check_folder("--html", chosen.html)
    found = []
    for difference in differences(sides, chosen.prompt or [DEFAULT_PROMPT], chosen.generate, _say):
        found.append(difference)
        for line in difference.lines():
            print(line)
    if chosen.html is not None:
        given = [
            f"{chosen.first} {chosen.first_settings}",
            f"{chosen.second} {chosen.second_settings}",
        ]
        _write_page(report_of(found, [text.strip() for text in given]), chosen.html)
    return int(any(difference.drifts for difference in found))


def _check_folder(option: str, path: Path | None) -> None:
    """Refuse a file that could not be written, before the work and not after it."""
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"{option}: there is no folder {path.parent}")
    if path is not None and path.is_dir():
        raise UsageError(f"{option}: {path} is a folder; give a file")


def _upgrade(chosen: argparse.Namespace, rest: list[str]) -> int:
    from pytest_nnsight.upgrade.combination import combinations, label, package_of
    from pytest_nnsight.upgrade.table import exit_code, summary_rows, table_json, table_lines

    wanted = combinations(chosen.requirements)
    bench = _bench(chosen, rest, {package_of(wish) for wish in chosen.requirements})
    _check_folder("--json", chosen.json)
    _check_folder("--html", chosen.html)
    trials = []
    for number, combination in enumerate(wanted, 1):
        name = f"{number}/{len(wanted)} {label(combination)}"
        trials.append(bench.run(combination, name))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(table_json(trials), indent=1) + "\n", encoding="utf-8")
    if chosen.html is not None:
        _write_page(table_json(trials), chosen.html)
    lines = [*table_lines(trials)]
    for line in lines:
        print(line)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        from pytest_nnsight.report.github import table_summary

        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
            file.write(table_summary(summary_rows(trials), lines[len(trials) + 2 :]))
    return exit_code(trials)


def _bisect(chosen: argparse.Namespace, rest: list[str]) -> int:
    from pytest_nnsight.upgrade.bisect import bisect
    from pytest_nnsight.upgrade.combination import package_of
    from pytest_nnsight.upgrade.releases import release_date, releases_between
    from pytest_nnsight.upgrade.table import result_lines
    from pytest_nnsight.upgrade.upgrade_run import UpgradeRun

    varied = {package_of(wish) for wish in (chosen.package, *chosen.requirements)}
    bench = _bench(chosen, rest, varied)
    releases = releases_between(chosen.package, chosen.good, chosen.bad)

    def run(release: str) -> UpgradeRun:
        requirements = (f"{chosen.package}=={release}", *chosen.requirements)
        return bench.run(requirements, f"{chosen.package} {release}")

    found = bisect(releases, run, bench.progress)
    day = release_date(chosen.package, found.first)
    what = "changes the goldens" if found.is_worse else "gives what the goldens hold"
    when = f", of {day}," if day else ""
    between = f" ({', '.join(found.skipped)} between cannot be installed)" if found.skipped else ""
    print(f"{chosen.package} {found.first}{when} is the first that {what}{between};")
    print(f"with {found.first if found.is_worse else found.before}:")
    for line in result_lines(found.upgrade_run):
        print(line)
    return 0


def _bench(chosen: argparse.Namespace, rest: list[str], varied: set[str]) -> UpgradeRunner:
    from platformdirs import user_cache_path

    from pytest_nnsight.upgrade.pins import find_pins, read_pins
    from pytest_nnsight.upgrade.upgrade_run import UpgradeRunner

    folder = Path.cwd()
    path = chosen.constraint or find_pins(folder)
    pins = read_pins(path, varied) if path is not None else []
    cache = chosen.cache or user_cache_path("pytest-nnsight") / "environments"
    return UpgradeRunner(folder, rest, pins, cache, _say)


def _say(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
