"""A model that changes outputs in place is detected once a session; then outputs are copied."""

from __future__ import annotations

from project import Project

CONFTEST = """
import pytest, torch
from nnsight import NNsight

FORWARDS = []

@pytest.fixture(scope="session")
def nnsight_model():
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.ReLU(inplace=True), torch.nn.Linear(4, 2)
    )
    module.register_forward_pre_hook(lambda *_: FORWARDS.append(1))
    yield NNsight(module.eval())
    print("forwards", len(FORWARDS))
"""
TESTS = """
import pytest, torch

@pytest.mark.parametrize("number", range(3))
def test_run(number, nnsight_capture, nnsight_golden):
    x = torch.linspace(-1, 1, 4)[None] * (1 + number)
    run = nnsight_capture.trace(x)
    assert run == nnsight_golden
    before = next(call for call in run.calls if call.path == "0").leaves[-1].summary
    assert before.minimum < 0
"""


def test_only_the_first_capture_of_such_a_model_runs_twice(project: Project) -> None:
    """The first layer's output has negative values, which the in-place activation sets to zero."""
    (project.path / "conftest.py").write_text(CONFTEST)
    (project.path / "test_it.py").write_text(TESTS)
    options = ("-s", "--nnsight-isolation=off")
    project.run(*options, "--snapshot-update").assert_outcomes(passed=3)
    result = project.run(*options)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*forwards 4*", "3 goldens: * the same bit by bit*"])
