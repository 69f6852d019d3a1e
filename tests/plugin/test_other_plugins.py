"""With other pytest plugins, goldens are written and checked, and drift is found.

The plugins are in ``.venv/other-plugins``, where only these tests let pytest find them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

FOLDER = Path(__file__).parents[2] / ".venv" / "other-plugins"
PLUGINS = ("asyncio", "pytest_cov", "html", "randomly", "repeat", "rerunfailures", "timeout")
SUBJECT = """
def double(number):
    twice = number * 2
    return twice


def unused(number):
    return number
"""
TESTS = """
import subject

def scale(model):
    factor = float(os.environ.get("FACTOR", "1"))
    model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output * factor

def check(capture, golden, intervene=None):
    assert subject.double(2) == 4
    assert capture.trace("Hello", modules="**.mlp", intervene=intervene) == golden

def test_one(nnsight_capture, nnsight_golden):
    check(nnsight_capture, nnsight_golden)

def test_two(nnsight_capture, nnsight_golden):
    check(nnsight_capture, nnsight_golden, scale)

def test_three(nnsight_capture, nnsight_golden):
    check(nnsight_capture, nnsight_golden)
"""
DRIFT = "*golden drift: * of 2 calls, starts at transformer.h.1.mlp (rel *, allowed 1e-5); *"
Use = Callable[..., tuple[str, ...]]
Drift = Callable[[], None]


@pytest.fixture
def use(project: Project, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Return the options that load some of the other plugins, and none of the rest."""
    if not FOLDER.is_dir():
        pytest.fail(f"{FOLDER.parent.name}/{FOLDER.name} is missing; run make", pytrace=False)
    path = [str(FOLDER), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    project.pytester.makepyfile(subject=SUBJECT)
    project.test_file(TESTS)

    def options(*plugins: str) -> tuple[str, ...]:
        assert set(plugins) <= set(PLUGINS)
        others = [f"-pno:{name}" for name in PLUGINS if name not in plugins]
        return (*TINY, *others)

    return options


@pytest.fixture
def drift(monkeypatch: pytest.MonkeyPatch) -> Drift:
    """Change what `test_two` computes, so that it drifts from its golden."""
    return lambda: monkeypatch.setenv("FACTOR", "1.01")


def check_life(project: Project, options: tuple[str, ...], drift: Drift) -> None:
    """Write the goldens of `TESTS`, check them, and see one of them drift."""
    project.run(*options, "--snapshot-update").assert_outcomes(passed=3)
    before = project.goldens()
    assert len(before) == 3
    passed = project.run(*options)
    assert passed.ret == 0
    passed.assert_outcomes(passed=3)
    drift()
    failed = project.run(*options)
    assert failed.ret == pytest.ExitCode.TESTS_FAILED
    failed.assert_outcomes(passed=2, failed=1)
    failed.stdout.fnmatch_lines([DRIFT])
    assert project.goldens() == before


def covered(project: Project) -> tuple[list[int], list[int]]:
    """Return the lines of `SUBJECT` that ran, and those that did not."""
    report = json.loads((project.path / "coverage.json").read_text())["files"]["subject.py"]
    return report["executed_lines"], report["missing_lines"]


COVERAGE = ("--cov=subject", "--cov-report=json", "--cov-report=term")
LINES = ([1, 2, 3, 6], [7])


def test_cov_counts_what_runs_in_the_worker(project: Project, use: Use, drift: Drift) -> None:
    options = (*use("pytest_cov"), *COVERAGE)
    check_life(project, options, drift)
    assert covered(project) == LINES


@pytest.mark.parametrize(
    "how",
    ["-n2", "-n0", "-s", "-d --tx=popen", "--dist=load --tx=2*popen", "--nnsight-isolation=off"],
)
def test_cov_with_and_without_workers(project: Project, use: Use, how: str) -> None:
    project.write_goldens(*use(), passed=3)
    result = project.run(*use("pytest_cov"), *COVERAGE, *how.split())
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    assert covered(project) == LINES


def test_cov_without_xdist(project: Project, use: Use) -> None:
    project.write_goldens(*use(), passed=3)
    result = project.run(*use("pytest_cov"), *COVERAGE, "-pno:xdist")
    result.assert_outcomes(passed=3)
    assert covered(project) == LINES


@pytest.mark.parametrize("where", ["ini", "environment", "conftest"])
def test_cov_where_the_model_is_no_option(
    project: Project, use: Use, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    project.write_goldens(*use(), passed=3)
    if where == "ini":
        project.pytester.makeini("[pytest]\nnnsight_model = tiny:gpt2\n")
    elif where == "environment":
        monkeypatch.setenv("PYTEST_NNSIGHT_MODEL", "tiny:gpt2")
    else:
        project.pytester.makeconftest("import os\nos.environ['PYTEST_NNSIGHT_MODEL'] = 'tiny:gpt2'")
    options = use("pytest_cov")[len(TINY) :]
    result = project.run(*options, *COVERAGE)
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    assert ("worker" in result.stdout.str()) is (where != "conftest")
    assert covered(project) == LINES


def test_cov_with_a_test_path_that_is_not_there(project: Project, use: Use) -> None:
    result = project.run(*use("pytest_cov"), *COVERAGE, "test_gone.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: file or directory not found: test_gone.py"])


def test_randomly(project: Project, use: Use, drift: Drift) -> None:
    options = (*use("randomly"), "-v")
    orders = []
    for seed in range(1, 4):
        result = project.run(*options, f"--randomly-seed={seed}", "--snapshot-update")
        result.assert_outcomes(passed=3)
        orders.append([line.split()[-1] for line in result.outlines if "PASSED" in line])
    assert len({tuple(order) for order in orders}) > 1
    check_life(project, (*options, "--randomly-seed=2"), drift)


def test_rerunfailures(
    project: Project, use: Use, drift: Drift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drift fails in every attempt; a test that passes in the last one writes its golden."""
    options = (*use("rerunfailures"), "--reruns=2")
    check_life(project, options, drift)
    assert project.run(*options).parseoutcomes()["rerun"] == 2
    project.test_file(
        TESTS.replace("def check(", "RUNS = []\ndef check(").replace(
            "    assert subject", "    RUNS.append(1)\n    assert len(RUNS) > 1\n    assert subject"
        )
    )
    before = project.goldens()
    result = project.run(*options, "--snapshot-update")
    result.assert_outcomes(passed=3)
    assert result.parseoutcomes()["rerun"] == 1
    changed = [name for name, text in project.goldens().items() if text != before[name]]
    assert [Path(name).stem for name in changed] == ["test_two"]
    assert project.run(*options).ret == 0


def test_rerunfailures_reports_the_last_attempt_alone(project: Project, use: Use) -> None:
    project.write_goldens(*use(), passed=3)
    project.test_file(
        TESTS.replace("def scale", "RUNS = []\ndef scale").replace(
            "    factor =", "    RUNS.append(1)\n    factor = 1.01 if len(RUNS) == 1 else"
        )
    )
    result = project.run(*use("rerunfailures"), "--reruns=1", "--nnsight-report=report.json")
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    assert result.parseoutcomes()["rerun"] == 1
    result.stdout.fnmatch_lines(["3 goldens: 3 the same bit by bit"])
    tests = json.loads((project.path / "report.json").read_text())["tests"]
    assert [len(test["goldens"]) for test in tests] == [1, 1, 1]
    assert {test["goldens"][0]["verdict"] for test in tests} == {"same"}


def test_asyncio(project: Project, use: Use, drift: Drift) -> None:
    project.pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    tests = TESTS.replace("def test_", "async def test_").replace("    check(", "    await check(")
    project.test_file(
        "import asyncio\n"
        + tests.replace("def check", "async def check").replace(
            "    assert subject", "    await asyncio.sleep(0)\n    assert subject"
        )
    )
    check_life(project, use("asyncio"), drift)


def test_repeat(project: Project, use: Use, drift: Drift) -> None:
    """Each repetition is a separate test with a separate golden."""
    options = (*use("repeat"), "--count=2")
    project.run(*options, "--snapshot-update").assert_outcomes(passed=6)
    assert len(project.goldens()) == 6
    project.run(*options).assert_outcomes(passed=6)
    drift()
    result = project.run(*options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines([DRIFT])


def test_html(project: Project, use: Use, drift: Drift) -> None:
    options = (*use("html"), "--html=report.html", "--self-contained-html")
    check_life(project, options, drift)
    page = (project.path / "report.html").read_text()
    assert "golden drift" in page
    assert "2 Passed" in page
    assert "1 Failed" in page


def test_timeout(project: Project, use: Use, drift: Drift) -> None:
    check_life(project, (*use("timeout"), "--timeout=60"), drift)
    project.test_file(
        TESTS + "\n@pytest.mark.timeout(1)\ndef test_hangs():\n    __import__('time').sleep(60)\n"
    )
    result = project.run(*use("timeout"), "--timeout=60")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["*Timeout (>1.0s) from pytest-timeout.*"])


def test_all_of_them(project: Project, use: Use, drift: Drift) -> None:
    project.pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    options = (*use(*PLUGINS), *COVERAGE, "--html=report.html", "--timeout=60")
    check_life(project, options, drift)
    assert covered(project) == LINES
