"""Installed and not used, the plugin imports nothing heavy."""

from __future__ import annotations

import sys

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


COUNT = """
import sys, pytest

calls = 0

def count(frame, event, argument):
    global calls
    calls += event in ("call", "c_call")

sys.setprofile(count)
pytest.main(["-p", "no:hypothesispytest", "-p", "no:cacheprovider", *sys.argv[1:]])
sys.setprofile(None)
ours = sorted(name.rpartition(".")[2] for name in sys.modules if name.startswith("pytest_nnsight."))
print("CALLS:", calls, *ours)
"""
NEEDED = [
    *("checks", "errors", "failures", "items", "keys", "options", "plugin"),
    *("session", "settings", "shared_model"),
]


def test_collecting_without_it_costs_hardly_less(project: Project) -> None:
    """Counted in calls of functions: 1.03 times those without it; a record more is 0.001."""
    project.pytester._monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    (project.path / "count.py").write_text(COUNT)
    (project.path / "test_it.py").write_text("def test_plain(): pass\n")

    def counted(*arguments: str) -> tuple[int, list[str]]:
        command = (sys.executable, "count.py", "--collect-only", "-q", *arguments)
        result = project.pytester.run(*command, timeout=300)
        last = next(line for line in result.outlines if line.startswith("CALLS:")).split()
        return int(last[1]), last[2:]

    counted()  # writes the bytecode
    without, nothing = counted("-p", "no:nnsight")
    with_it, modules = counted()
    assert (nothing, modules) == ([], NEEDED)
    assert with_it / without < 1.05
