"""``--nnsight-suite`` runs ordinary tests without a test file."""

from __future__ import annotations

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

NAMES = ["greedy_generation", "long_prompt", "padded_batch", "short_prompt"]
BOTH = (*TINY, "--nnsight-model", "tiny:bert", "--nnsight-suite")


def test_the_suite_on_two_models_and_two_workers(project: Project) -> None:
    project.run(*BOTH, "-n", "2", "--snapshot-update").assert_outcomes(passed=9, skipped=1)
    assert sorted(project.goldens()) == [
        *(f"tiny-bert/cpu-float32/suite/test_{name}.json" for name in NAMES[1:]),
        *(f"tiny-gpt2/cpu-float32/suite/test_{name}.json" for name in NAMES),
    ]
    project.run(*BOTH).assert_outcomes(passed=9, skipped=1)


def test_the_suite_does_not_change_the_import_path(project: Project) -> None:
    """Otherwise `upgrade` imports packages from the folder of the plugin before those installed."""
    project.pytester.makeconftest(
        """
        import sys
        from pathlib import Path
        import pytest_nnsight

        def pytest_collection_finish():
            assert sys.path[0] != str(Path(pytest_nnsight.__file__).parents[1])
        """
    )
    result = project.run(*TINY, "--nnsight-suite", "--collect-only", "-q")
    assert result.ret == 0


def test_the_suite_is_selected_deselected_and_collected(project: Project) -> None:
    """Without a test path only the suite runs; with one, both run."""
    project.test_file("def test_mine(): pass\n")
    listed = project.run(*TINY, "--nnsight-suite", "--collect-only", "-q")
    assert [line for line in listed.outlines if "::" in line] == [
        f"nnsight-suite::test_{name}"
        for name in (
            "short_prompt",
            "long_prompt",
            "no_stale_state",
            "padded_batch",
            "greedy_generation",
        )
    ]
    selected = project.run(*TINY, "--nnsight-suite", "--collect-only", "-q", "-k", "batch")
    selected.stdout.fnmatch_lines(["nnsight-suite::test_padded_batch", "1/5 tests collected*"])
    deselected = project.run(
        *TINY,
        "--nnsight-suite",
        "--collect-only",
        "-q",
        "--deselect",
        "nnsight-suite::test_padded_batch",
        "test_it.py",
    )
    assert "test_it.py::test_mine" in deselected.outlines
    deselected.stdout.fnmatch_lines(["5/6 tests collected*"])
