"""Run the tests of a project in one environment and read their results."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from pytest_nnsight.errors import UsageError, one_line
from pytest_nnsight.report import outcomes
from pytest_nnsight.report.outcomes import ERROR, NOT_RUN, VERDICTS, read_report, verdict_of
from pytest_nnsight.upgrade.environment import InstallError, Progress, make_environment
from pytest_nnsight.upgrade.requirements import Combination, is_open, package_of

_WRITING = ("--snapshot-update", "--nnsight-rebaseline", "--nnsight-calibrate", "--nnsight-prune")
NOT_INSTALLED = "not installed"


@dataclass(frozen=True, slots=True)
class Result:
    """Give the verdict of one test; ``line`` explains a verdict that is not ``same``."""

    test: str
    verdict: str
    line: str = ""


@dataclass(frozen=True, slots=True)
class UpgradeRun:
    """Hold the results of the tests under one combination.

    ``failure`` says why there are none, or why they mean nothing. ``report`` is that of the pytest
    session, ``None`` where nothing could be installed.
    """

    combination: Combination
    results: tuple[Result, ...] = ()
    failure: str = ""
    report: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """Return the combination as text, with the version that pip chose if it is open."""
        versions = (self.report or {}).get("versions", {})
        found = {text: versions.get(package_of(text)) for text in self.combination}
        return ", ".join(f"{t} ({v})" if v and is_open(t) else t for t, v in found.items())

    @property
    def is_installed(self) -> bool:
        """Tell whether the combination could be installed."""
        return self.report is not None

    @property
    def worst(self) -> str:
        """Return the worst verdict, ``error`` for a failed session, or `NOT_INSTALLED`."""
        if not self.is_installed:
            return NOT_INSTALLED
        verdicts = (result.verdict for result in self.results)
        return ERROR if self.failure else max(verdicts, key=VERDICTS.index)


@dataclass(frozen=True, slots=True)
class UpgradeRunner:
    """Run the tests in ``folder`` under combinations.

    ``arguments`` go to pytest, ``pins`` constrain every environment in ``cache``.
    """

    folder: Path
    arguments: Sequence[str]
    pins: Sequence[str]
    cache: Path
    progress: Progress

    def __post_init__(self) -> None:
        """Refuse arguments that write goldens."""
        writing = [text for text in self.arguments if text.split("=")[0] in _WRITING]
        if writing:
            raise UsageError(f"{writing[0]} writes goldens; upgrade and bisect only check them")

    def run(self, combination: Combination, name: str) -> UpgradeRun:
        """Run the tests under a combination; ``name`` starts the line about its progress."""
        self.progress(f"{name}: ")
        upgrade_run = self._run(combination)
        worst = upgrade_run.failure or upgrade_run.worst
        self.progress(f"{outcomes.STRUCTURE_ONLY if worst == outcomes.STRUCTURE else worst}\n")
        return upgrade_run

    def _run(self, combination: Combination) -> UpgradeRun:
        try:
            python = make_environment(combination, self.pins, self.cache, self.progress)
        except InstallError as error:
            return UpgradeRun(combination, failure=f"cannot be installed: {error}")
        self.progress("running ... ")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "report.json"
            command = [str(python), "-m", "pytest", *self.arguments, f"--nnsight-report={path}"]
            done = subprocess.run(  # without GitHub's files, to which each session would write
                [*command, "-p", "no:cacheprovider"],
                cwd=self.folder,
                env={k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")},
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
            try:
                return read_upgrade_run(combination, read_report(path))
            except UsageError:
                output = [*done.stderr.splitlines(), *done.stdout.splitlines()]
                line = next((x for x in output if "error" in x.lower()), f"exit {done.returncode}")
                reason = one_line(line)
                return UpgradeRun(combination, failure=f"pytest did not run: {reason}", report={})


def read_upgrade_run(combination: Combination, report: dict[str, Any]) -> UpgradeRun:
    """Return the results of a combination from the report of its pytest session."""
    results = [Result(test["test"], *verdict_of(test)) for test in report["tests"]]
    results += [Result(error["file"], ERROR, error["line"]) for error in report["errors"]]
    results += [Result(test, NOT_RUN) for test in report["not_run"]]
    failure = _wrong_version(combination, report) if results else "no test ran"
    return UpgradeRun(combination, tuple(results), failure, report)


def _wrong_version(combination: Combination, report: dict[str, Any]) -> str:
    """Describe a package that ran in another version, as one earlier on the import path does."""
    versions, wrong = report["versions"], []
    for text in combination:
        name, specifier = package_of(text), Requirement(text).specifier
        if name in versions and not specifier.contains(versions[name], prereleases=True):
            wrong.append(f"{name} {versions[name]}, not {specifier}")
    for golden in (golden for test in report["tests"] for golden in test["goldens"]):
        ran = golden.get("now", {}).get("versions", {})  # in a worker, other than in the controller
        wrong += [f"{n} {ran[n]}, not {v}" for n, v in versions.items() if ran.get(n, v) != v]
    hint = "does PYTHONPATH, a conftest or the import mode put another version first?"
    return f"the tests ran with {wrong[0]}: {hint}" if wrong else ""
