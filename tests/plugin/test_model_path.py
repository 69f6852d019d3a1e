"""``--nnsight-model PATH`` and ``--nnsight-model=PATH`` give the same root folder and ini file."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from project import Project

pytestmark = pytest.mark.usefixtures("warm")

CONFTEST = """
with open("loaded.txt", "a") as file:
    print("loaded", file=file)

def pytest_addoption(parser):
    parser.addoption("--of-the-project")

def pytest_report_header(config):
    return f"ROOT {config.rootpath} {config.inipath} {config.getini('markers')[0]} {config.args}"
"""
TEST = """
def test_root(request):
    config = request.config
    print("IN TEST", config.rootpath, config.inipath, config.option.nnsight_model)
    print("PATHS", [path for path in sys.path if "wrong" in path or "right" in path])
"""
WAYS = {
    "alone": [],
    "in_this_process": ["-n0"],
    "two_workers": ["-n2"],
    "a_test_path": ["tests"],
    "an_ini_file": ["-c", "other.ini"],
    "a_root": ["--rootdir", "tests"],
    "an_option_of_a_conftest": ["--of-the-project", "1"],
    "no_capture": ["-s"],
    "warnings_are_errors": ["-W", "error"],
}


@pytest.fixture
def model(project: Project, saved_gpt2: Path) -> str:
    """A project with an ini file, and a model in a folder with another one, as a relative path."""
    models = project.path.parent / f"models-of-{project.path.name}"
    shutil.copytree(saved_gpt2, models / "my-gpt2")
    (models / "pytest.ini").write_text("[pytest]\nmarkers = wrong\npythonpath = wrong\n")
    project.pytester.makeini(
        "[pytest]\nmarkers = right\npythonpath = right\naddopts = --strict-markers"
    )
    (project.path / "other.ini").write_text("[pytest]\nmarkers = other\n")
    (project.path / "conftest.py").write_text(CONFTEST)
    project.test_file("import sys\n" + TEST, "tests/test_it.py")
    return f"../{models.name}/my-gpt2"


def seen(project: Project, result: pytest.RunResult) -> list[str]:
    """Return what the session and the test saw, and how often the conftest file was loaded."""
    loaded = project.path / "loaded.txt"
    words = ("ROOT", "rootdir:", "configfile:", "testpaths:", "IN TEST", "PATHS", "=====")
    lines = [line for line in result.outlines if line.startswith(words) and "seconds" not in line]
    lines = [line.rpartition(" in ")[0] or line for line in lines]
    found = [*lines, loaded.read_text() if loaded.exists() else ""]
    loaded.unlink(missing_ok=True)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_model_path_after_a_space_is_no_test_path(project: Project, model: str, way: str) -> None:
    expected = project.run(f"--nnsight-model={model}", *WAYS[way], "-rP")
    expected.assert_outcomes(passed=1)
    first = seen(project, expected)
    for arguments in (
        ["--nnsight-model", model, *WAYS[way]],
        [*WAYS[way], "--nnsight-model", model],
    ):
        result = project.run(*arguments, "-rP")
        result.assert_outcomes(passed=1)
        assert seen(project, result) == first


def test_several_model_paths_after_spaces(project: Project, model: str) -> None:
    """Both give two models, also next to one that is no path."""
    other = f"{model}/../other"
    shutil.copytree(project.path / model, project.path / other)
    project.test_file("def test_it(nnsight_model): pass\n", "tests/test_it.py")
    both = ("--nnsight-model", model, "--nnsight-model", "tiny:llama", "--nnsight-model", other)
    result = project.run(*both, "--collect-only", "-q")
    assert [line for line in result.outlines if "::" in line] == [
        f"tests/test_it.py::test_it[{name}]" for name in ("my-gpt2", "tiny-llama", "other")
    ]


@pytest.mark.parametrize("source", ["PYTEST_ADDOPTS", "addopts"])
def test_a_model_path_after_a_space_in_other_sources_of_options(
    project: Project, model: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = seen(project, project.run(f"--nnsight-model={model}", "-rP"))
    if source == "addopts":
        ini = project.path / "tox.ini"
        ini.write_text(ini.read_text() + f" --nnsight-model {model}")
    else:
        monkeypatch.setenv(source, f"--nnsight-model {model}")
    for way in ((), ("-n2",)):
        result = project.run("-rP", *way)
        result.assert_outcomes(passed=1)
        assert [line for line in seen(project, result) if "=====" not in line][:-1] == [
            line for line in first if "=====" not in line
        ][:-1]


MAIN = """
import os, sys
import pytest

class Plugin:
    def pytest_sessionstart(self, session):
        print("STARTED", session.config.rootpath.name)

code = pytest.main(["--nnsight-model", sys.argv[1], "-q", "tests"], plugins=[Plugin()])
print("CODE", repr(code), os.environ.get("PYTEST_ADDOPTS"))
"""


def test_pytest_main_returns_the_exit_code(project: Project, model: str) -> None:
    project.test_file("def test_fails(): assert 0\n", "tests/test_it.py")
    (project.path / "main.py").write_text(MAIN)
    result = project.pytester.run(sys.executable, "main.py", model, timeout=300)
    result.stdout.fnmatch_lines([f"STARTED {project.path.name}"])
    result.stdout.fnmatch_lines(["1 failed*", "CODE <ExitCode.TESTS_FAILED: 1> None"])


def test_goldens_are_in_the_project(project: Project, model: str) -> None:
    project.test_file(
        "def test_golden(nnsight_capture, nnsight_golden):\n"
        "    assert nnsight_capture.trace('Hello') == nnsight_golden\n",
        "tests/test_it.py",
    )
    project.run("--nnsight-model", model, "--snapshot-update").assert_outcomes(passed=1)
    assert [*project.goldens()] == ["my-gpt2/cpu-float32/tests/test_it/test_golden.json"]
    project.run("--nnsight-model", model).assert_outcomes(passed=1)
    suite = project.run("--nnsight-model", model, "--nnsight-suite", "-k", "short_prompt")
    assert f"rootdir: {project.path}" in suite.outlines
