"""``--nnsight-structure``: a renamed output is one structural change, reported once."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

TEST = """
from dataclasses import make_dataclass
from transformers.utils import ModelOutput

NAME, CHANGE = os.environ.get("NAME", "states"), float(os.environ.get("CHANGE", "0"))
FIELDS = [("logits", object, None), (NAME, object, None)]
Output = make_dataclass("Output", FIELDS, bases=(ModelOutput,))

@pytest.mark.parametrize("text", ["Hello", "Bye"])
def test_own(nnsight_model, nnsight_golden, text):
    with nnsight_model.trace(text):
        hidden = nnsight_model.transformer.h[1].mlp.output.save()
    output = Output(logits=hidden, **{NAME: (hidden * (1 + CHANGE),)})
    assert {"output": output} == nnsight_golden
"""
CHANGED = "container states -> memory, first at output (same versions), 2 tests:"
TESTS = ["test_it.py::test_own[Hello]", "test_it.py::test_own[Bye]"]


@pytest.fixture
def renamed(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with goldens of an output that has another name since then."""
    project.test_file(TEST)
    project.write_goldens(*TINY, passed=2)
    monkeypatch.setenv("NAME", "memory")
    return project


def test_strict_fails_with_a_short_line_and_reports_the_change_once(
    renamed: Project, monkeypatch: pytest.MonkeyPatch, first_line: Callable[..., str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = renamed.run(*TINY, "--nnsight-report=out.json", "--nnsight-report=out.html")
    result.assert_outcomes(failed=2)
    assert first_line(result) == (
        "golden structure changed, all values equal: 1 of 1 calls, starts at output (container "
        "states -> memory); cause: structure (same weights, config and versions)"
    )
    result.stdout.fnmatch_lines(
        [
            "2 goldens: 2 structure only",
            "structure only, all values equal (write them with --snapshot-update, or accept *):",
            "  container states -> memory, first at output (*), 2 tests:",
            f"    {', '.join(TESTS)}".replace("[", "[[]"),
            "::error file=test_it.py,line=10,title=structure only%2C all values equal::container *",
        ],
        consecutive=True,
    )
    report = json.loads((renamed.path / "out.json").read_text())
    (change,) = report["structure"]
    assert change["change"] == "container states -> memory"
    assert (change["tests"], change["is_accepted"]) == (TESTS, False)
    assert '"structure":[{"change":"container states' in ((renamed.path / "out.html").read_text())


def test_values_accepts_the_change_and_lists_it(renamed: Project) -> None:
    result = renamed.run(*TINY, "--nnsight-structure=values")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        [
            "2 goldens: 2 the same bit by bit",
            "other structure, accepted because all values are equal:",
            f"  {CHANGED}",
        ],
        consecutive=True,
    )


def test_values_in_a_marker_applies_to_its_test(renamed: Project) -> None:
    marked = TEST.replace("@pytest", "@pytest.mark.nnsight(structure='values')\n@pytest", 1)
    renamed.test_file(marked)
    renamed.run(*TINY).assert_outcomes(passed=2)


def test_a_drift_behind_a_renamed_output_fails(
    renamed: Project, monkeypatch: pytest.MonkeyPatch, first_line: Callable[..., str]
) -> None:
    monkeypatch.setenv("CHANGE", "1e-3")
    result = renamed.run(*TINY, "--nnsight-structure=values", "-k", "Hello")
    result.assert_outcomes(failed=1)
    assert first_line(result).startswith(
        "golden drift: 1 of 1 calls, starts at output out.states[0] (rel 9.9e-4, allowed "
        "1e-5); likely cause: code ("
    )
    result.stdout.fnmatch_lines(["*output: container states -> memory"])
