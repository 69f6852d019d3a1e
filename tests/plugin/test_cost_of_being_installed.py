"""A project that does not use the plugin pays almost nothing for it."""

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
    """Hypothesis' plugin is off, because it imports numpy if numpy is installed."""
    (project.path / "spy.py").write_text(SPY)
    (project.path / "test_it.py").write_text(
        "def test_plain(): pass\ndef test_model(nnsight_capture, nnsight_golden): pass\n"
    )
    result = project.run("--collect-only", "-q", "-p", "spy", "-p", "no:hypothesispytest", *model)
    result.stdout.fnmatch_lines(["2 tests collected*", "HEAVY: []"])


def test_a_project_without_a_model_runs_as_without_the_plugin(project: Project) -> None:
    """No header line, no changed option, and ``--snapshot-update`` works under CI."""
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
IMPORTED = [
    *("errors", "failures", "items", "keys", "model_guard", "options"),
    *("plugin", "session_setup", "settings", "shared_model"),
]


def test_the_plugin_adds_less_than_6_percent_of_function_calls(project: Project) -> None:
    """A quarter of the calls are importlib's: it parses the metadata with the README in it.

    Each additional dataclass adds 0.1 percent.
    """
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
    assert (nothing, modules) == ([], IMPORTED)
    assert with_it / without < 1.06
