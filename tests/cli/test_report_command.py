"""``pytest-nnsight report`` prints a report or draws its page, and does not need torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")
WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "nnsight"):
    sys.modules[name] = None
from pytest_nnsight.cli import main
sys.exit(main(sys.argv[1:]))
"""
TESTS = """
def test_golden(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
"""


@pytest.fixture
def reported(project: Project) -> Project:
    """A project with the report of one test session, as JSON and as an HTML page."""
    project.test_file(TESTS)
    project.write_goldens(*TINY, passed=1)
    project.run(*TINY, "--nnsight-report=drift.json", "--nnsight-report=drift.html")
    return project


def command(project: Project, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments],
        cwd=project.path,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_page_is_drawn_from_the_json_report_alone(reported: Project) -> None:
    page = (reported.path / "drift.html").read_text()
    assert "<title>1 test: 1 same</title>" in page
    assert '"words":["transformer.wte","transformer.wpe"' in page
    (reported.path / "drift.html").unlink()
    done = command(reported, "report", "drift.json", "--html")
    assert (done.returncode, done.stderr) == (0, "wrote drift.html\n")
    assert (reported.path / "drift.html").read_text() == page
    done = command(reported, "report", "drift.json", "--html", "other.html")
    assert (reported.path / "other.html").read_text() == page


def test_without_html_the_report_is_printed(reported: Project) -> None:
    done = command(reported, "report", "drift.json")
    assert (done.returncode, done.stdout) == (0, "1 golden: 1 the same bit by bit\n")


def test_show_draws_the_page_of_one_golden(reported: Project) -> None:
    golden = str(reported.golden("test_it/test_golden").relative_to(reported.path))
    done = command(reported, "show", golden, "--html", "golden.html")
    assert (done.returncode, done.stderr) == (0, "wrote golden.html\n")
    assert "<title>trace of tiny:gpt2</title>" in (reported.path / "golden.html").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a report of this version of pytest-nnsight"),
        ("[", "is not a report of this version of pytest-nnsight"),
        ('{"kind": "report", "format": 99}', "is not a report of this version of pytest-nnsight"),
        ('{"kind": "report", "format": 1, "tests": [{}]}', "is damaged: KeyError *"),
        ('{"kind": "upgrade", "format": 1, "trials": 5}', "is damaged: TypeError *"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--html",)], ids=str)
def test_a_file_that_is_not_a_report_prints_one_line(
    project: Project, text: str, message: str, more: tuple[str, ...]
) -> None:
    (project.path / "bad.json").write_text(text)
    done = command(project, "report", "bad.json", *more)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (2, 1)
    assert lines[0].startswith(f"pytest-nnsight: bad.json {message.removesuffix('*')}")
    assert not (project.path / "bad.html").exists()


def test_a_page_that_cannot_be_written_prints_one_line(reported: Project) -> None:
    done = command(reported, "report", "drift.json", "--html", "nowhere/x.html")
    assert done.returncode == 2
    assert done.stderr == "pytest-nnsight: cannot write nowhere/x.html: No such file or directory\n"
