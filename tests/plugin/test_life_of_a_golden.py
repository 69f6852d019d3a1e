"""The life cycle of a golden: missing, created, passing, changed, updated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("leaky", "warm")

TRACE = """
def test_trace(nnsight_model, nnsight_capture, nnsight_golden):
    if "SHIFT" in os.environ:
        with torch.no_grad():
            nnsight_model._module.transformer.wpe.weight[0] += float(os.environ["SHIFT"])
    assert nnsight_capture.trace("Hello there") == nnsight_golden
"""


def test_a_golden_is_missing_created_passing_drifted_and_updated(
    project: Project, monkeypatch: pytest.MonkeyPatch, first_line: Callable[..., str]
) -> None:
    project.test_file(TRACE)
    missing = project.run(*TINY)
    missing.assert_outcomes(failed=1)
    assert first_line(missing) == (
        "golden: no golden golden/tiny-gpt2/cpu-float32/test_it/test_trace.json; "
        "write it with --snapshot-update"
    )
    assert project.goldens() == {}

    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=1)
    created = project.goldens()
    assert list(created) == ["tiny-gpt2/cpu-float32/test_it/test_trace.json"]
    assert (project.golden("weights")).is_file()

    project.run(*TINY).assert_outcomes(passed=1)
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=1)
    assert project.goldens() == created

    monkeypatch.setenv("SHIFT", "0.5")
    drifted = project.run(*TINY)
    drifted.assert_outcomes(failed=1)
    assert first_line(drifted).startswith("golden drift: ")
    assert drifted.ret == pytest.ExitCode.TESTS_FAILED
    drifted.stdout.fnmatch_lines(
        ["*if this is right: pytest --nnsight-model tiny:gpt2 test_it.py::test_trace*"]
    )
    assert project.goldens() == created

    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=1)
    assert project.goldens() != created
    project.run(*TINY).assert_outcomes(passed=1)


def test_only_rebaseline_rewrites_goldens_within_tolerance(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.test_file(TRACE)
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=1)
    created = project.goldens()
    monkeypatch.setenv("SHIFT", "3e-7")
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=1)
    assert project.goldens() == created
    project.run(*TINY, "--nnsight-rebaseline").assert_outcomes(passed=1)
    assert project.goldens() != created


def test_several_goldens_dicts_and_tolerances_in_one_test(
    project: Project, first_line: Callable[..., str]
) -> None:
    project.test_file(
        """
def test_names(nnsight_model, nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
    assert nnsight_capture.trace("Bye") == nnsight_golden(name="bye")
    with nnsight_model.trace("Hello"):
        hidden = nnsight_model.transformer.h[1].output.save()
    values = {"hidden": hidden, "pair": (hidden, 1.5), "ids": torch.tensor([1, 2])}
    assert values == nnsight_golden(name="own values")

SHIFT = float(os.environ.get("SHIFT", 0))

def test_run_within(nnsight_model, nnsight_capture, nnsight_golden):
    run = nnsight_capture.trace("Hello", intervene=shift)
    assert run.within(1e-2) == nnsight_golden

@pytest.mark.nnsight(tolerance=1e-2)
def test_marker(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello", intervene=shift) == nnsight_golden

def test_default(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello", intervene=shift) == nnsight_golden

def shift(model):
    model.transformer.h[0].output[0][:] *= 1 + SHIFT
"""
    )
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=4)
    folder = "tiny-gpt2/cpu-float32/test_it"
    assert f"{folder}/test_names.json" in project.goldens()
    assert f"{folder}/test_names[bye].json" in project.goldens()
    project.pytester.makeini("[pytest]\nenv =\n")
    project.pytester._monkeypatch.setenv("SHIFT", "1e-3")
    shifted = project.run(*TINY)
    shifted.assert_outcomes(passed=3, failed=1)
    line = first_line(shifted, "test_default")
    assert "transformer.h.0 (rel" in line.replace(" out[0]", "")  # a tuple up to transformers 5.2
    project.run(*TINY, "--nnsight-tolerance", "1e-2").assert_outcomes(passed=4)
