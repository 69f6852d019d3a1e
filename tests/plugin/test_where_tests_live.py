"""Fixtures and traces in classes, parametrized and async tests, doctests, unittest, and workers.

Each place has the same test; there it passes, and fails with the same message.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

FACTOR = """
def factor():
    return float(os.environ.get("FACTOR", "1"))

def scale(model):
    model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output * factor()
"""
CLASSES = f"""{FACTOR}
class TestMlp:
    @pytest.fixture
    def run(self, nnsight_capture):
        return nnsight_capture.trace("Hello", modules="**.mlp", intervene=scale)

    def test_capture(self, run, nnsight_golden):
        assert run == nnsight_golden

    class TestInside:
        def test_trace(self, nnsight_model, nnsight_golden):
            with nnsight_model.trace("Hello"):
                hidden = nnsight_model.transformer.h[1].mlp.output.save()
            assert {{"hidden": hidden * factor()}} == nnsight_golden
"""
PARAMETRIZED = f"""{FACTOR}
@pytest.fixture(params=[0, 1])
def layer(request):
    return request.param

@pytest.mark.parametrize("prompt", ["Hello", "Good bye"], ids=["in", "out"])
def test_layer(nnsight_model, nnsight_capture, nnsight_golden, layer, prompt):
    run = nnsight_capture.trace(prompt, modules=f"transformer.h.{{layer}}", intervene=scale)
    assert run == nnsight_golden
    with nnsight_model.trace(prompt):
        hidden = nnsight_model.transformer.h[layer].output.save()
    assert {{"hidden": hidden}} == nnsight_golden(name="own")
"""
ASYNC = f"""{FACTOR}
import asyncio
pytestmark = pytest.mark.anyio

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def run(nnsight_capture):
    await asyncio.sleep(0)
    return nnsight_capture.trace("Hello", modules="**.mlp", intervene=scale)

async def test_capture(run, nnsight_golden):
    await asyncio.sleep(0)
    assert run == nnsight_golden

async def test_trace(nnsight_model, nnsight_golden):
    await asyncio.sleep(0)
    with nnsight_model.trace("Hello"):
        hidden = nnsight_model.transformer.h[1].mlp.output.save()
    await asyncio.sleep(0)
    assert {{"hidden": hidden * factor()}} == nnsight_golden
"""
UNITTEST = f"""{FACTOR}
import unittest

class Mlp(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _fixtures(self, nnsight_capture, nnsight_golden):
        self.capture, self.golden = nnsight_capture, nnsight_golden

    def test_capture(self):
        run = self.capture.trace("Hello", modules="**.mlp", intervene=scale)
        self.assertTrue(run == self.golden)
"""
DOCTEST = '''
FACTOR = float(os.environ.get("FACTOR", "1"))

def mlp(capture):
    """Capture the multilayer perceptrons.

    >>> run = mlp(getfixture("nnsight_capture"))
    >>> run == getfixture("nnsight_golden")
    True
    """
    def scale(model):
        model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output * FACTOR
    return capture.trace("Hello", modules="**.mlp", intervene=scale)
'''
SHARED = f"""{FACTOR}
RUNS = []

@pytest.fixture(scope="session")
def run(nnsight_session_capture):
    RUNS.append(nnsight_session_capture.trace("Hello", keep="**.mlp", intervene=scale))
    return RUNS[-1]

def test_all(run, nnsight_golden):
    assert run == nnsight_golden

def test_one(run, nnsight_golden):
    assert {{"mlp": run["transformer.h.1.mlp"].output}} == nnsight_golden

def test_another_capture(run, nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello", intervene=scale) == nnsight_golden
    assert len(RUNS) == 1
"""
PLACES = {
    "test_classes": CLASSES,
    "test_parametrized": PARAMETRIZED,
    "test_async": ASYNC,
    "test_unittest": UNITTEST,
    "deep/folder/test_session": SHARED,
    "mlp": DOCTEST,
}
FAIL = (
    "test_classes.py::TestMlp::test_capture",
    "test_classes.py::TestMlp::TestInside::test_trace",
    "test_parametrized.py::test_layer[1-in]",
    "test_parametrized.py::test_layer[1-out]",
    "test_async.py::test_capture",
    "test_async.py::test_trace",
    "test_unittest.py::Mlp::test_capture",
    "deep/folder/test_session.py::test_all",
    "deep/folder/test_session.py::test_one",
    "deep/folder/test_session.py::test_another_capture",
    "mlp.py::mlp.mlp",
)
DRIFT = "*golden drift: * of *, starts at * (rel *, allowed 1e-5); *cause: *"


def test_goldens_are_written_and_checked_in_every_place(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in PLACES.items():
        project.test_file(source, f"{name}.py")
    options = (*TINY, "--doctest-modules")
    project.run(*options, "--snapshot-update").assert_outcomes(passed=13)
    assert len(project.goldens()) == 17
    project.run(*options, "--import-mode=importlib").assert_outcomes(passed=13)
    monkeypatch.setenv("FACTOR", "1.01")
    result = project.run(*options, "-n2")
    result.assert_outcomes(passed=2, failed=11)
    for test in FAIL:
        assert any(line.startswith(f"FAILED {test} ") for line in result.outlines), test
    drifts = [line for line in result.outlines if fnmatchcase(line, DRIFT)]
    assert len(drifts) >= len(FAIL)
    result.stdout.fnmatch_lines(["15 goldens: 11 drift, 4 *"])


def test_with_several_models_fixtures_must_be_arguments(project: Project) -> None:
    project.test_file(UNITTEST)
    result = project.run(*TINY, "--nnsight-model", "tiny:llama")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["with 2 models a test must name its fixtures as arguments: a doctest, *"]
    )


def test_a_leak_through_getfixturevalue_is_named(
    project: Project,
) -> None:
    project.test_file(
        """
def test_leaves(request):
    request.getfixturevalue("nnsight_capture").model._module.train()

def test_next(nnsight_model):
    assert not nnsight_model._module.training
"""
    )
    result = project.run(*TINY)
    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*NnsightLeakWarning: left on the model: training mode on *"])
