"""Functions of torch that a test replaces are restored and reported, and no golden is written."""

from __future__ import annotations

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

CALL = "torch.nn.modules.module.Module.__call__"
PATCHES = {
    "call": (
        "original = torch.nn.Module.__call__\n"
        "    torch.nn.Module.__call__ = lambda self, *a, **k: original(self, *a, **k)",
        CALL,
    ),
    "layer_norm": (
        "original = torch.nn.functional.layer_norm\n"
        "    torch.nn.functional.layer_norm = lambda *a, **k: original(*a, **k) * 1.5",
        "torch.nn.functional.layer_norm",
    ),
    "softmax": (
        "original = torch.softmax\n    torch.softmax = lambda *a, **k: original(*a, **k)",
        "torch.softmax",
    ),
    "tensor": (
        "original = torch.Tensor.view\n"
        "    torch.Tensor.view = lambda self, *a, **k: original(self, *a, **k)",
        "torch.Tensor.view",
    ),
    "linear": (
        "original = torch.nn.LayerNorm.forward\n"
        "    torch.nn.LayerNorm.forward = lambda self, x: original(self, x) * 1.5",
        "torch.nn.modules.normalization.LayerNorm.forward",
    ),
    "attention": (
        "from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as functions\n"
        "    original = functions['sdpa']\n"
        "    functions['sdpa'] = lambda *a, **k: original(*a, **k)",
        "attention function 'sdpa'",
    ),
}
NEXT = """
def test_{name}_next(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
"""


@pytest.mark.parametrize("uses", ["nnsight_capture, nnsight_golden", ""], ids=["model", "no_model"])
def test_a_replaced_function_is_named_and_restored(project: Project, uses: str) -> None:
    compare = "assert nnsight_capture.trace('Hello') == nnsight_golden" if uses else "pass"
    for name in PATCHES:
        project.test_file(NEXT.format(name=name), f"test_{name}.py")
    project.write_goldens(*TINY, passed=len(PATCHES))
    good = project.goldens()
    for name, (patch, _) in PATCHES.items():
        test = f"def test_{name}_leaves({uses}):\n    {patch}\n    {compare}\n"
        project.test_file(test + NEXT.format(name=name), f"test_{name}.py")
    result = project.run(*TINY, "--snapshot-update", "--nnsight-leaks=fail")
    result.assert_outcomes(passed=2 * len(PATCHES), errors=len(PATCHES))
    assert project.goldens() == good
    for name, (_, function) in PATCHES.items():
        lines = iter(result.outlines)
        assert any(f"ERROR at teardown of test_{name}_leaves" in line for line in lines)
        expected = f"left on the model: {function} replaced for all tests, restored"
        assert expected in [next(lines), next(lines)]


def test_no_golden_is_written_with_a_replaced_function(project: Project) -> None:
    patch = PATCHES["layer_norm"][0]
    project.test_file(
        f"def test_leaves(nnsight_capture, nnsight_golden):\n    {patch}\n"
        "    assert nnsight_capture.trace('Hello') == nnsight_golden\n" + NEXT.format(name="it")
    )
    result = project.run(*TINY, "--snapshot-update")
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "*NnsightLeakWarning: left on the model: torch.nn.functional.layer_norm replaced for "
            "all tests, restored; its goldens are not written"
        ]
    )
    assert [*project.goldens()] == ["tiny-gpt2/cpu-float32/test_it/test_it_next.json"]


def test_a_fixture_may_replace_a_function_for_its_tests(project: Project) -> None:
    project.test_file(
        """
@pytest.fixture
def scaled(monkeypatch):
    original = torch.nn.functional.layer_norm
    monkeypatch.setattr(torch.nn.functional, "layer_norm", lambda *a, **k: original(*a, **k) * 1.5)

def test_scaled(scaled, nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
"""
    )
    project.write_goldens(*TINY, passed=1)
    project.run(*TINY).assert_outcomes(passed=1)
