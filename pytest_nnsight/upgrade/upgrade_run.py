"""The tests of a project in one environment: what each comes to."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from pytest_nnsight.errors import UsageError, one_line
from pytest_nnsight.report.outcomes import ERROR, NOT_RUN, VERDICTS, read_report, verdict_of
from pytest_nnsight.upgrade.combination import Combination, is_open, package_of
from pytest_nnsight.upgrade.environment import InstallError, make_environment

_WRITING = ("--snapshot-update", "--nnsight-rebaseline", "--nnsight-calibrate", "--nnsight-prune")
NOT_INSTALLED = "not installed"


@dataclass(frozen=True, slots=True)
class Result:
    """What one test came to under one combination; ``line`` tells more where it is not the same."""

    test: str
    verdict: str
    line: str = ""


@dataclass(frozen=True, slots=True)
class UpgradeRun:
    """One combination: its results, or in ``failure`` why there are none."""

    combination: Combination
    results: tuple[Result, ...] = ()
    failure: str = ""
    report: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """The combination, with the versions that were found where it leaves them open."""
        versions = (self.report or {}).get("versions", {})
        told = {wish: versions.get(package_of(wish)) for wish in self.combination}
        return ", ".join(
            f"{wish} ({found})" if found and is_open(wish) else wish for wish, found in told.items()
        )

    @property
    def is_installed(self) -> bool:
        """Whether there was an environment to run in."""
        return self.report is not None or not self.failure

    @property
    def worst(self) -> str:
        """The worst of the verdicts; ``error`` where nothing came of a run."""
        if not self.is_installed:
            return NOT_INSTALLED
        found = [result.verdict for result in self.results]
        return max(found, key=VERDICTS.index) if found and not self.failure else ERROR


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how trials run: the project, pytest's arguments, pins, the cache."""

    folder: Path
    arguments: Sequence[str]
    pins: Sequence[str]
    cache: Path
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        """Refuse what would write goldens."""
        written = [word for word in self.arguments if word.split("=")[0] in _WRITING]
        if written:
            raise UsageError(f"{written[0]} writes goldens; a trial only checks against them")

    def run(self, combination: Combination, name: str) -> UpgradeRun:
        """Run the tests under a combination; say what goes on, and what ``name`` comes to."""
        self.say(f"{name}: ")
        trial = self._run(combination)
        self.say(f"{trial.failure or trial.worst}\n")
        return trial

    def _run(self, combination: Combination) -> UpgradeRun:
        try:
            python = make_environment(combination, self.pins, self.cache, self.say)
        except InstallError as error:
            return UpgradeRun(combination, failure=f"cannot be installed: {error}")
        self.say("running ... ")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "report.json"
            command = [str(python), "-m", "pytest", *self.arguments, f"--nnsight-report={path}"]
            done = subprocess.run(  # what is said of one trial is not said of the job
                [*command, "-p", "no:cacheprovider"],
                cwd=self.folder,
                env={k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")},
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            try:
                return upgrade_run_of(combination, read_report(path))
            except UsageError:
                told = [*done.stderr.splitlines(), *done.stdout.splitlines()]
                line = next((x for x in told if "error" in x.lower()), f"exit {done.returncode}")
                why = one_line(Exception(line))
                return UpgradeRun(combination, failure=f"pytest did not run: {why}", report={})


def upgrade_run_of(combination: Combination, report: dict[str, Any]) -> UpgradeRun:
    """Return what a combination comes to by the report of its run."""
    results = [Result(test["test"], *verdict_of(test)) for test in report["tests"]]
    results += [Result(error["file"], ERROR, error["line"]) for error in report["errors"]]
    results += [Result(test, NOT_RUN) for test in report["not_run"]]
    failure = _foreign(combination, report) if results else "no test ran"
    return UpgradeRun(combination, tuple(results), failure, report)


def _foreign(combination: Combination, report: dict[str, Any]) -> str:
    """Tell of a run with other versions than its environment's; empty where there is none.

    A folder that comes first on the import path is enough to run all with what is below.
    """
    meant = report["versions"]
    requirements = {package_of(wish): Requirement(wish).specifier for wish in combination}
    found = [
        (name, meant[name], str(wish))
        for name, wish in requirements.items()
        if name in meant and not wish.contains(meant[name], prereleases=True)
    ]
    for test in report["tests"]:
        for golden in test["goldens"]:
            had = golden.get("now", {}).get("versions", {})
            found += [(n, had[n], meant[n]) for n in meant if had.get(n, meant[n]) != meant[n]]
    for name, had, wanted in found:
        return (
            f"the tests ran with {name} {had}, not {wanted}: does PYTHONPATH, a conftest or the "
            "import mode put another before it?"
        )
    return ""
