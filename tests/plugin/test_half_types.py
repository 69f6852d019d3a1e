"""In half types a drift fails where it begins, unless the same model only rounds differently."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from project import Project

pytestmark = pytest.mark.usefixtures("leaky", "warm")

PATH = "model.layers.0.mlp.down_proj"
LLAMA = ("--nnsight-model", "tiny:llama", "--nnsight-dtype", "bfloat16")
TEST = f"""
def forward(self, x, original=torch.nn.Linear.forward):
    if not hasattr(self, "halves"):
        return original(self, x)
    middle, weight = self.in_features // 2, self.weight
    parts = [(x[..., :middle], weight[:, :middle]), (x[..., middle:], weight[:, middle:])]
    return sum(torch.nn.functional.linear(*part) for part in parts)

torch.nn.Linear.forward = forward

@pytest.fixture(scope="session", autouse=True)
def changed(nnsight_model):
    torch.set_num_threads(1)
    module, change = nnsight_model._module.get_submodule("{PATH}"), os.environ.get("CHANGE")
    if change == "two sums":
        module.halves = True
    if change == "weights":
        module.weight.data[3, 5] += 0.02

def test_half(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("The quick brown fox") == nnsight_golden
"""


@pytest.fixture
def written(project: Project) -> Project:
    project.test_file(TEST)
    project.write_goldens(*LLAMA, passed=1)
    return project


def test_the_same_weights_summed_in_another_order_pass(
    written: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in tensor parallel layers, each partial sum is rounded. Differing bits are listed."""
    monkeypatch.setenv("CHANGE", "two sums")
    result = written.run(*LLAMA)
    result.assert_outcomes(passed=1)
    result.stdout.re_match_lines([rf".*test_half: \d+ of \d+ calls, from {PATH} on \(largest .*"])


def test_an_equally_small_change_of_a_weight_fails(
    written: Project, monkeypatch: pytest.MonkeyPatch, first_line: Callable[..., str]
) -> None:
    monkeypatch.setenv("CHANGE", "weights")
    result = written.run(*LLAMA)
    result.assert_outcomes(failed=1)
    line = first_line(result)
    assert f"starts at {PATH} (rel " in line
    assert line.endswith(
        f"allowed 1e-4); cause: weights (1 of 21 parameters differ: {PATH}.weight)"
    )
