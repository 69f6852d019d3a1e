"""Options of pytest that select, order or import tests do not change goldens or exit codes."""

from __future__ import annotations

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

TESTS = """
def scale(model):
    factor = float(os.environ.get("FACTOR", "1"))
    model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output * factor

@pytest.mark.parametrize("text", ["One", "Two", "Three", "Four"])
def test_stream(nnsight_capture, nnsight_golden, text):
    intervene = scale if text in ("Two", "Four") else None
    assert nnsight_capture.trace(text, modules="**.mlp", intervene=intervene) == nnsight_golden
"""
DRIFT = "*golden drift: * of 2 calls, starts at transformer.h.1.mlp (rel *, allowed 1e-5); *"


@pytest.fixture
def drifting(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project with goldens of four tests, of which the second and fourth drift."""
    project.test_file(TESTS)
    project.write_goldens(*TINY, passed=4)
    monkeypatch.setenv("FACTOR", "1.01")
    return project


def reported_tests(result: pytest.RunResult) -> list[str]:
    """Return the parameters of the tests that were reported, in order."""
    words = ("PASSED", "FAILED")
    lines = [line for line in result.outlines if line.startswith("[gw") and "%]" in line]
    assert all(any(word in line for word in words) for line in lines)
    return [line.partition("test_stream[")[2].partition("]")[0] for line in lines]


def test_import_mode_importlib(drifting: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    before = drifting.goldens()
    result = drifting.run(*TINY, "--import-mode=importlib")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines([DRIFT])
    monkeypatch.delenv("FACTOR")
    result = drifting.run(*TINY, "--import-mode=importlib", "--snapshot-update")
    result.assert_outcomes(passed=4)
    assert drifting.goldens() == before
    assert drifting.run(*TINY, "--import-mode=importlib").ret == 0


def test_last_failed_runs_and_updates_drifted_tests(
    drifting: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = drifting.goldens()
    assert drifting.run(*TINY).ret == pytest.ExitCode.TESTS_FAILED
    again = drifting.run(*TINY, "--lf", "-v")
    assert again.ret == pytest.ExitCode.TESTS_FAILED
    again.assert_outcomes(failed=2)
    again.stdout.fnmatch_lines([DRIFT])
    assert reported_tests(again) == ["Two", "Four"]
    drifting.run(*TINY, "--lf", "--snapshot-update").assert_outcomes(passed=2)
    after = drifting.goldens()
    assert after.keys() == before.keys()
    changed = [name for name in after if after[name] != before[name]]
    assert [name.rpartition("/")[2] for name in changed] == [
        "test_stream[Four].json",
        "test_stream[Two].json",
    ]
    assert drifting.run(*TINY).ret == 0


@pytest.mark.parametrize(
    ("option", "tests", "failed"),
    [
        ("-x", ["One", "Two"], 1),
        ("--maxfail=1", ["One", "Two"], 1),
        ("--maxfail=2", ["One", "Two", "Three", "Four"], 2),
    ],
)
def test_a_run_that_stops_early_changes_no_golden(
    drifting: Project, option: str, tests: list[str], failed: int
) -> None:
    before = drifting.goldens()
    result = drifting.run(*TINY, option, "-v")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=len(tests) - failed, failed=failed)
    result.stdout.fnmatch_lines([DRIFT, f"*stopping after {failed} failures*"])
    assert reported_tests(result) == tests
    assert drifting.goldens() == before
