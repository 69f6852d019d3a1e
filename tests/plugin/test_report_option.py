"""``--nnsight-report`` contains every test of a session with its outcome."""

from __future__ import annotations

import json
from typing import Any

import pytest
from project import EXAMPLES, TINY, Project

from pytest_nnsight.report.outcomes import read_report, verdict_of

pytestmark = pytest.mark.usefixtures("warm")
TESTS = EXAMPLES / "all_outcomes.py"


def report_of(project: Project, *arguments: str) -> tuple[pytest.RunResult, dict[str, Any]]:
    result = project.run(*TINY, "--nnsight-report=drift.json", *arguments)
    result.stdout.fnmatch_lines(["nnsight report: drift.json"])
    return result, read_report(project.path / "drift.json")


@pytest.mark.parametrize("options", [(), ("-n0",)], ids=str)
def test_goldens_that_are_the_same(project: Project, options: tuple[str, ...]) -> None:
    project.copy_example(TESTS)
    project.write_goldens(*TINY, passed=6, skipped=1)
    result, report = report_of(project, *options)
    assert report["exit_code"] == result.ret == 0
    assert report["models"] == ["tiny:gpt2"]
    assert set(report["versions"]) >= {"torch", "nnsight", "transformers"}
    tests = {test["test"].partition("::")[2]: test for test in report["tests"]}
    assert {name: verdict_of(test)[0] for name, test in tests.items()} == {
        "test_golden[1]": "same",
        "test_golden[2]": "same",
        "test_new": "passed",
        "test_plain": "passed",
        "test_skipped": "skipped",
        "test_hangs": "passed",
        "test_crashes": "passed",
    }
    golden = tests["test_golden[1]"]["goldens"][0]
    assert golden["golden"].endswith("test_it/test_golden[1].json")
    assert (golden["calls"], golden["bits"]) == (31, 0)


def test_drifts_errors_hangs_and_crashes(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_NNSIGHT_LEAKS", "off")
    project.copy_example(TESTS)
    project.write_goldens(*TINY, passed=6, skipped=1)
    monkeypatch.setenv("CHANGE", "1")
    monkeypatch.setenv("NEW", "1")
    project.test_file("import nothing_of_that_name\n", "test_broken.py")
    result, report = report_of(project, "--nnsight-timeout=3")
    assert report["exit_code"] == result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "HUNG test_it.py::test_hangs",
            "  HUNG after 3 s",
            "  rerun  pytest --nnsight-model tiny:gpt2 test_it.py::test_hangs",
        ],
        consecutive=True,
    )
    tests = {test["test"].partition("::")[2]: test for test in report["tests"]}
    assert {name: verdict_of(test)[0] for name, test in tests.items()} == {
        "test_golden[1]": "drift",
        "test_golden[2]": "drift",
        "test_new": "missing",
        "test_plain": "error",
        "test_skipped": "skipped",
        "test_hangs": "hung",
        "test_crashes": "crashed",
    }
    golden = tests["test_golden[1]"]["goldens"][0]
    assert golden["start"] == "transformer.h.1.mlp.c_fc"
    assert golden["cause"] == "weights"
    assert golden["is_certain"]
    assert golden["rel"] > golden["allowed"] == 1e-5
    assert golden["line"].startswith("golden drift: ")
    assert verdict_of(tests["test_plain"])[1] == "plainly"
    assert verdict_of(tests["test_hangs"])[1] == "HUNG after 3 s"
    assert "time.sleep" in tests["test_hangs"]["text"]
    assert [error["file"] for error in report["errors"]] == ["test_broken.py"]
    assert "nothing_of_that_name" in report["errors"][0]["line"]


@pytest.mark.parametrize("path", ["drift.txt", "nowhere/drift.json"])
def test_a_wrong_report_path_is_refused(project: Project, path: str) -> None:
    project.test_file("def test_it(): pass\n")
    result = project.run(*TINY, f"--nnsight-report={path}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: --nnsight-report: '{path}' is not a .json or .html file in a *"]
    )


def test_the_report_is_json_with_a_kind(project: Project) -> None:
    project.test_file("def test_it(): pass\n")
    report_of(project)
    text = (project.path / "drift.json").read_text()
    assert json.loads(text)["kind"] == "report"
    assert text.endswith("}\n")


def test_an_interrupted_session_writes_its_report(project: Project) -> None:
    project.copy_example(TESTS)
    project.write_goldens(*TINY, passed=6, skipped=1)
    (project.path / "conftest.py").write_text(
        "import os\n"
        "def pytest_configure_node(node):\n"
        "    node.workerinput['controller'] = os.getpid()\n"
    )
    project.test_file(
        "def test_waits(request):\n"
        "    os.kill(request.config.workerinput['controller'], 2)\n"
        "    import time; time.sleep(5)\n"
        "def test_after(): pass\n",
        "test_later.py",
    )
    result, report = report_of(
        project, "test_it.py", "test_later.py", "-k", "golden or waits or after"
    )
    assert result.ret == report["exit_code"] == pytest.ExitCode.INTERRUPTED
    assert [verdict_of(test)[0] for test in report["tests"]][:2] == ["same", "same"]
    assert "test_later.py::test_after" in report["not_run"]


def test_github_and_pytest_html_show_the_drift(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pytest_html")
    project.copy_example(TESTS)
    project.write_goldens(*TINY, passed=6, skipped=1)
    monkeypatch.setenv("PYTEST_NNSIGHT_LEAKS", "off")
    monkeypatch.setenv("CHANGE", "1")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    html = ("--html=all.html", "--self-contained-html")
    result = project.run(*TINY, "-k", "golden", *html)
    result.stdout.fnmatch_lines(
        ["::error file=test_it.py,line=19,title=drift%3A test_golden[[]1[]]::golden drift: 10 of *"]
    )
    summary = (project.path / "summary.md").read_text()
    assert summary.startswith("### nnsight: 2 goldens: 2 drift\n")
    assert "transformer.h.1.mlp.c\\_fc" in summary
    assert "golden drift: 10 of 31 calls" in (project.path / "all.html").read_text()


def test_quiet_shortens_the_section_at_the_end(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.copy_example(TESTS)
    project.write_goldens(*TINY, passed=6, skipped=1)
    monkeypatch.setenv("PYTEST_NNSIGHT_LEAKS", "off")
    monkeypatch.setenv("CHANGE", "1")
    result = project.run(*TINY, "-k", "golden", "--color=yes")
    result.stdout.fnmatch_lines(
        [
            "*= nnsight =*",
            "\x1b[[]31m2 goldens: 2 drift\x1b[[]0m",
            "\x1b[[]31mDRIFT test_it.py::test_golden[[]1[]]\x1b[[]0m",
            "  also test_it.py::test_golden[[]2[]]",
            "  10 of 31 calls, from transformer.h.1.mlp.c_fc: rel *, allowed 1e-5",
            "  cause: weights (1 of 28 parameters differ: transformer.h.1.mlp.c_fc.weight)",
            "  depth  *",
            "  worst  transformer.h.1.mlp.c_fc *",
            "  rerun  pytest --nnsight-model tiny:gpt2 'test_it.py::test_golden[[]1[]]'",
            "  if this is right: pytest --nnsight-model tiny:gpt2 * --snapshot-update",
        ]
    )
    quiet = project.run(*TINY, "-k", "golden", "-q")
    quiet.stdout.fnmatch_lines(["2 goldens: 2 drift"])
    quiet.stdout.no_fnmatch_line("*= nnsight =*")
    quiet.stdout.no_fnmatch_line("  depth *")
