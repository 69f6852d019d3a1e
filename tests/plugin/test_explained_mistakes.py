"""A common mistake with nnsight is explained below the failure of its test."""

from __future__ import annotations

import pytest
from project import TINY, Project

from pytest_nnsight.report.outcomes import read_report

pytestmark = pytest.mark.usefixtures("warm")

TESTS = """
def test_saves_nothing(nnsight_model):
    with nnsight_model.trace("Hello"):
        hidden = nnsight_model.transformer.h[1].output
    assert hidden.shape

class TestOrder:
    @pytest.mark.parametrize("first", [1])
    def test_reads_backwards(self, nnsight_model, first):
        with nnsight_model.trace("Hello"):
            nnsight_model.transformer.h[1].output.save()
            nnsight_model.transformer.h[0].output.save()

def test_fails_plainly(nnsight_model):
    assert nnsight_model is None

def test_after_it(nnsight_capture):
    assert nnsight_capture.trace("Hello").calls
"""


def test_a_mistake_is_explained_below_the_failure(project: Project) -> None:
    project.test_file(TESTS)
    result = project.run(*TINY, "--nnsight-report=drift.json")
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*- nnsight: what went wrong -*",
            "hidden was not saved: inside the trace write hidden = ....save()",
            "*- nnsight: what went wrong -*",
            "transformer.h.0 had run already; read modules in the order in which they run: "
            "transformer.h.0, transformer.h.1",
        ]
    )
    assert str(result.stdout).count("nnsight: what went wrong") == 2
    hints = [test.get("hint") for test in read_report(project.path / "drift.json")["tests"]]
    assert hints[0] == "hidden was not saved: inside the trace write hidden = ....save()"
    assert hints[2:] == ["", None]
