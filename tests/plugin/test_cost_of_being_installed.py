"""Installed and not used, the plugin imports nothing heavy."""

from __future__ import annotations

import pytest
from project import TINY, Project

HEAVY = "torch", "nnsight", "transformers", "numpy"
SPY = f"""
import sys

def pytest_unconfigure():
    print("HEAVY:", [name for name in {HEAVY!r} if name in sys.modules])
"""


@pytest.mark.parametrize("model", [(), TINY], ids=["unused", "configured"])
def test_collecting_imports_nothing_heavy(project: Project, model: tuple[str, ...]) -> None:
    """With hypothesis off: its plugin looks into numpy where that is installed."""
    (project.path / "spy.py").write_text(SPY)
    (project.path / "test_it.py").write_text(
        "def test_plain(): pass\ndef test_model(nnsight_capture, nnsight_golden): pass\n"
    )
    result = project.run("--collect-only", "-q", "-p", "spy", "-p", "no:hypothesispytest", *model)
    result.stdout.fnmatch_lines(["2 tests collected*", "HEAVY: []"])


def test_a_project_that_does_not_use_it_is_left_alone(project: Project) -> None:
    """No header line, no option changed, and ``--snapshot-update`` under CI is not our business."""
    (project.path / "test_it.py").write_text(
        "def test_plain(snapshot):\n    assert 1 == snapshot\n"
    )
    (project.path / "spy.py").write_text(SPY)
    project.pytester._monkeypatch.setenv("CI", "1")
    result = project.run("--snapshot-update", "-p", "spy", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["HEAVY: []"])
    result.stdout.no_fnmatch_line("nnsight: *")
