"""``--nnsight-leaks``: what was restored is one warning per test; what was not fails the test."""

from __future__ import annotations

import subprocess
import sys

import pytest
from project import TINY, Project
from test_shared_model import LEAKS, write_all

pytestmark = pytest.mark.usefixtures("warm")

LEAVES = """
def test_leaves(nnsight_model):
    nnsight_model._module.train()
    torch.set_num_threads(torch.get_num_threads() + 1)
"""
MESSAGE = (
    "left on the model: training mode on 34 of 34 modules, restored; torch's number of threads"
)
WARNING = "NnsightLeakWarning"
WAYS = [(), ("-n2",), ("--nnsight-isolation=off",), ("-p", "no:xdist")]
LOST = ("written", "numpy", "child")


def test_every_leak_that_is_restored_is_a_warning(project: Project) -> None:
    write_all(project)
    project.run(*TINY, "--snapshot-update", "-k", "next").assert_outcomes(passed=len(LEAKS))
    result = project.run(*TINY)
    result.assert_outcomes(passed=2 * len(LEAKS), errors=len(LOST), warnings=len(LEAKS) - len(LOST))
    for number, (name, (_, message)) in enumerate(LEAKS.items()):
        lines = iter(result.outlines)
        start = f"ERROR at teardown of test_{number}_leaves" if name in LOST else "test_it.py::test"
        assert any(start in line and f"test_{number}_leaves" in line for line in lines)
        assert f"left on the model: {message}" in next(lines) + next(lines)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_test_has_one_warning_at_its_own_place(project: Project, way: tuple[str, ...]) -> None:
    project.test_file(LEAVES)
    result = project.run(*TINY, *way)
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(
        ["test_it.py::test_leaves", f"  test_it.py:3: {WARNING}: {MESSAGE} *, back to *"]
    )


def test_each_parameter_has_its_warning(project: Project) -> None:
    """Python shows equal warnings of one place only once."""
    project.test_file("\n@pytest.mark.parametrize('x', [1, 2])" + LEAVES.replace("(nn", "(x, nn"))
    project.run(*TINY).assert_outcomes(passed=2, warnings=2)


FILTERS = {
    "option": ("-W", f"error::pytest_nnsight.{WARNING}"),
    "ini": ("-o", f"filterwarnings=error::pytest_nnsight.{WARNING}"),
    "all": ("-W", "error"),
    "marker": (),
}


@pytest.mark.parametrize("way", WAYS[:3], ids=str)
@pytest.mark.parametrize("source", FILTERS)
def test_a_filter_makes_the_warning_an_error_or_hides_it(
    project: Project, source: str, way: tuple[str, ...]
) -> None:
    mark = "\n@pytest.mark.filterwarnings('{}::pytest_nnsight." + WARNING + "')"
    marker = mark.format("error") if source == "marker" else ""
    project.test_file(marker + LEAVES)
    result = project.run(*TINY, *FILTERS[source], *way)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"{WARNING}: {MESSAGE} *"])
    result.stdout.no_fnmatch_line("*Traceback*")
    project.test_file(mark.format("ignore") + LEAVES)
    project.run(*TINY, *FILTERS[source], *way).assert_outcomes(passed=1)


GOLDENS = """
def test_{name}(nnsight_model, nnsight_capture, nnsight_golden):
    {change}
    assert nnsight_capture.trace("Hello") == nnsight_golden
"""
HARMLESS = {
    "threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "grad_mode": "torch.set_grad_enabled(False)",
    "requires": "nnsight_model._module.requires_grad_(False)",
    "gradients": "nnsight_model._module(torch.tensor([[1]])).logits.sum().backward()",
}
DOUBTFUL = {
    "train": "nnsight_model._module.train()",
    "hook": "nnsight_model._module.lm_head.register_forward_hook(lambda *a: a[2] * 2)",
    "config": "nnsight_model._module.config.use_cache = False",
    "padding": "nnsight_model.tokenizer.padding_side = 'right'",
    "precision": "torch.set_float32_matmul_precision('high')",
}


def test_a_golden_is_written_unless_the_leak_may_have_changed_numbers(project: Project) -> None:
    changes = HARMLESS | DOUBTFUL
    project.test_file(
        "".join(GOLDENS.format(name=name, change=change) for name, change in changes.items())
    )
    result = project.run(*TINY, "--snapshot-update")
    result.assert_outcomes(passed=len(changes), warnings=len(changes))
    written = {path.rpartition("/test_")[2] for path in project.goldens()}
    assert written == {f"{name}.json" for name in HARMLESS}
    warnings = [line for line in result.outlines if WARNING in line]
    dropped = [line for line in warnings if line.endswith("; its goldens are not written")]
    assert len(dropped) == len(DOUBTFUL)


BACKWARD = """
def test_with(nnsight_model, nnsight_golden):
    with nnsight_model.trace("Hello"):
        hidden = nnsight_model.transformer.h[1].output
        hidden.requires_grad_(True)
        with nnsight_model.lm_head.output[0, -1].max().backward():
            gradient = hidden.grad.save()
    assert {"gradient": gradient} == nnsight_golden

def test_after(nnsight_model):
    with nnsight_model.trace("Hello"):
        loss = nnsight_model.lm_head.output[0, -1].max().save()
    with loss.backward():
        pass

def test_plain(nnsight_model):
    with nnsight_model.trace("Hello"):
        nnsight_model.lm_head.output[0, -1].max().backward()
    assert nnsight_model._module.lm_head.weight.grad is not None

def test_outside(nnsight_model):
    test_plain(nnsight_model)
    nnsight_model._module(torch.tensor([[1]])).logits.sum().backward()

def test_set(nnsight_model):
    nnsight_model._module.lm_head.weight.grad = torch.ones(264, 64)

def test_next(nnsight_model):
    assert all(parameter.grad is None for parameter in nnsight_model._module.parameters())
"""


def test_gradients_of_a_traced_backward_are_dropped_silently(project: Project) -> None:
    project.test_file(BACKWARD)
    result = project.run(*TINY, "--snapshot-update")
    result.assert_outcomes(passed=6, warnings=2)
    result.stdout.fnmatch_lines(["test_it.py::test_outside", "  *gradients on 28 of 28*"])
    result.stdout.fnmatch_lines(["test_it.py::test_set", "  *gradients on 1 of 28*"])
    project.run(*TINY, "--nnsight-leaks=fail").assert_outcomes(passed=6, errors=2)


def test_importing_the_warning_imports_nothing_heavy() -> None:
    code = (
        f"import sys; from pytest_nnsight import {WARNING}; "
        "print({'torch', 'nnsight', 'numpy', 'transformers', 'pytest'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
