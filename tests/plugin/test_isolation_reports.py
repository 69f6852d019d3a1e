"""For what xdist cannot send from a worker, the exit code is that of plain pytest."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import TINY, Project

LIVES = "def test_lives(): pass\n"


@pytest.fixture
def write(project: Project) -> Path:
    """Return the path of the test file, which does not import torch."""
    return project.path / "test_it.py"


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["automatic", "-n2"])
@pytest.mark.parametrize(
    ("argument", "code"), [("", 2), (", returncode=0", 0), (", returncode=7", 7)]
)
def test_pytest_exit_sets_the_exit_code(
    project: Project, write: Path, argument: str, code: int, workers: tuple[str, ...]
) -> None:
    write.write_text(f"import pytest\ndef test_it(): pytest.exit('all done'{argument})\n{LIVES}")
    plain = project.run("-pno:xdist")
    assert plain.ret == code
    result = project.run(*TINY, *workers)
    assert result.ret == code
    result.stdout.fnmatch_lines(["!* xdist.dsession.Interrupted: Exit: all done !*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


SURROGATES = r"""
import warnings, pytest

def test_fails(): pytest.fail("\ud800")

def test_raises(): raise ValueError("\udbff")

def test_warns(): warnings.warn("\ud800")

class Odd:
    def __str__(self): return 1 / 0
    __repr__ = __str__

def test_records(record_property):
    record_property("object", object())
    record_property("odd", Odd())
    record_property("text", "\ud800")
"""


def test_text_and_objects_that_execnet_refuses_are_escaped(project: Project, write: Path) -> None:
    write.write_text(SURROGATES)
    assert project.run("-pno:xdist").ret == 1
    result = project.run(*TINY)
    assert result.ret == 1
    result.assert_outcomes(failed=2, passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        [
            r"FAILED test_it.py::test_fails - Failed: \ud800",
            r"FAILED test_it.py::test_raises - ValueError: \udbff",
        ]
    )
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


ODD_ERROR = """
import pytest

class Odd({base}):
    def __str__(self): raise ValueError("no text")
    __repr__ = __str__

def test_raises(): raise Odd

def test_raises_with_a_model(nnsight_model): raise Odd

def test_raises_in_a_trace(nnsight_model):
    with nnsight_model.trace("Hello"):
        raise Odd

@pytest.fixture
def fails(): raise Odd

def test_fixture(fails): pass

def test_lives(): pass
"""


@pytest.mark.parametrize("base", ["Exception", "KeyboardInterrupt"])
@pytest.mark.parametrize("option", ["--nnsight-isolation=auto", "-s"])
def test_an_exception_whose_text_cannot_be_read_fails_its_test(
    project: Project, write: Path, base: str, option: str
) -> None:
    write.write_text(ODD_ERROR.format(base=base))
    if base == "KeyboardInterrupt" and option == "-s":
        pytest.skip("an interrupt ends the session there")
    result = project.run(*TINY, option)
    assert result.ret == 1
    result.assert_outcomes(failed=3, errors=1, passed=1)
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_raises - *Odd*"])
