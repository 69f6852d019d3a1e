"""Each test has separate goldens, wherever its file is and whichever tests a run selects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

SLASHES = """
@pytest.mark.parametrize("text", {ids})
def test_slash(nnsight_capture, nnsight_golden, text):
    if "CHANGED" in os.environ:
        text += "."
    assert nnsight_capture.trace(text, modules="**.mlp") == nnsight_golden
"""
PLAIN = """
def test_a(nnsight_capture, nnsight_golden):
    text = {text!r} + os.environ.get("CHANGED", "")
    assert nnsight_capture.trace(text, modules="**.mlp") == nnsight_golden
"""
FOLDER = "golden/tiny-gpt2/cpu-float32/test_it"


def names(project: Project) -> list[str]:
    return sorted(Path(path).stem for path in project.goldens())


def test_two_tests_with_one_golden_name_have_separate_goldens(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.test_file(SLASHES.format(ids=["x/y", "x_y", "z/y"]))
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=3)
    both = ["test_slash[x_y]", "test_slash[x_y]-c14bf21e", "test_slash[z_y]"]
    assert names(project) == both
    prompts = [project.read(f"test_it/{name}")["input"]["text"] for name in both]
    assert prompts == ["x_y", "x/y", "z/y"]
    before = project.goldens()
    project.run(*TINY).assert_outcomes(passed=3)
    for selection in (
        "-kx/y",
        "test_it.py::test_slash[x/y]",
        "--deselect=test_it.py::test_slash[x_y]",
    ):
        result = project.run(*TINY, selection, "--snapshot-update")
        assert result.ret == 0
        assert project.goldens() == before
    monkeypatch.setenv("CHANGED", "1")
    result = project.run(*TINY, "test_it.py::test_slash[x/y]")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*golden golden/*/test_slash[[]x_y]-c14bf21e.json"])
    monkeypatch.delenv("CHANGED")
    project.run(*TINY, "--lf", "--snapshot-update").assert_outcomes(passed=1)
    assert project.goldens() == before


def test_prune_distinguishes_tests_with_one_golden_name(project: Project) -> None:
    project.test_file(SLASHES.format(ids=["x/y", "x_y"]))
    project.write_goldens(*TINY, passed=2)
    project.run(*TINY, "--nnsight-prune").stdout.fnmatch_lines(["0 without a test"])
    project.test_file(SLASHES.format(ids=["x_y"]))
    result = project.run(*TINY, "--nnsight-prune=remove")
    result.stdout.fnmatch_lines(
        [f"removed: {FOLDER}/test_slash[[]x_y]-c14bf21e.json", "1 without a test"]
    )
    project.run(*TINY).assert_outcomes(passed=1)


def test_a_name_that_no_other_test_has_gets_no_hash(project: Project) -> None:
    project.test_file(SLASHES.format(ids=["x/y"]))
    project.write_goldens(*TINY, passed=1)
    assert names(project) == ["test_slash[x_y]"]
    project.run(*TINY, "--nnsight-prune").stdout.fnmatch_lines(["0 without a test"])


def test_one_model_and_several_share_goldens(project: Project) -> None:
    project.test_file(SLASHES.format(ids=["x/y", "x_y"]))
    project.write_goldens(*TINY, passed=2)
    before = names(project)
    result = project.run(*TINY, "--nnsight-model=tiny:llama", "--snapshot-update")
    result.assert_outcomes(passed=4)
    assert names(project) == sorted([*before, *before])


@pytest.fixture
def outside(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Write two test files with one name, in folders next to the root folder."""
    for name in ("left", "right"):
        project.test_file(PLAIN.format(text=name), f"tests/{name}/test_it.py")
    (project.path / "root").mkdir()
    (project.path / "golden").symlink_to("root/golden")
    return project


ROOT = (*TINY, "--rootdir=root", "--import-mode=importlib")
LEFT, RIGHT = "tests/left/test_it.py", "tests/right/test_it.py"


def test_files_outside_the_root_have_separate_goldens(
    outside: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (LEFT, RIGHT):
        outside.run(*ROOT, file, "--snapshot-update").assert_outcomes(passed=1)
    before = outside.goldens()
    assert [path.split("/", 2)[2] for path in before] == [
        "test_it-80d6cec1/test_a.json",
        "test_it-81aa6ced/test_a.json",
    ]
    for selection in ([LEFT, RIGHT], ["tests"], [str(outside.path / "tests")], [f"{LEFT}::test_a"]):
        result = outside.run(*ROOT, *selection)
        assert result.ret == 0
        assert f"{len(before) if '::' not in selection[0] else 1} passed" in result.stdout.str()
    outside.run(*ROOT, LEFT, "--nnsight-prune").stdout.fnmatch_lines(["0 without a test"])
    assert outside.goldens() == before


def test_reports_say_how_to_run_a_test_outside_the_root(
    outside: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.run(*ROOT, "tests", "--snapshot-update").assert_outcomes(passed=2)
    monkeypatch.setenv("CHANGED", "!")
    result = outside.run(*ROOT, LEFT, RIGHT, "--nnsight-report=report.json")
    result.assert_outcomes(failed=2)
    command = f"pytest --nnsight-model tiny:gpt2 --rootdir root {LEFT}::test_a"
    result.stdout.fnmatch_lines([f"*if this is right: {command} --snapshot-update"])
    tests = json.loads((outside.path / "report.json").read_text())["tests"]
    assert [test["test"] for test in tests] == [f"../{LEFT}::test_a", f"../{RIGHT}::test_a"]
    outside.run(*command.split()[1:], "--snapshot-update").assert_outcomes(passed=1)
    outside.run(*ROOT, "tests").assert_outcomes(passed=1, failed=1)


def test_an_inherited_test_is_reported_with_the_file_of_its_class(
    outside: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside.test_file(
        "class Base:\n"
        "    def test_a(self, nnsight_capture, nnsight_golden):\n"
        "        assert nnsight_capture.trace('Hello') == nnsight_golden\n",
        "tests/base.py",
    )
    outside.test_file("from base import Base\nclass TestIt(Base): pass\n", "root/test_it.py")
    monkeypatch.setenv("PYTHONPATH", str(outside.path / "tests"), prepend=":")
    result = outside.run(*ROOT, "root", "--nnsight-suite", "--nnsight-report=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    tests = json.loads((outside.path / "report.json").read_text())["tests"]
    assert len(tests) > 1
    assert tests[0]["test"] == "test_it.py::TestIt::test_a"
    assert tests[-1]["test"].startswith("nnsight-suite::test_")
