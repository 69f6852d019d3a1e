"""After each cause in each phase, pytest ends, names the cause and loses no golden.

``make test-long`` runs some of the combinations, ``make matrix`` all of them.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import matrix
import pytest

pytestmark = pytest.mark.long


def is_selected(phase: int, cause: int, way: int, is_whole: bool) -> bool:
    """Select every cause in every phase twice for the whole matrix: by default, and another way."""
    if is_whole:
        return way == 0 or (phase + cause) % 3 == way - 1
    return (phase + cause + 7 * way) % 19 == 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_whole = metafunc.config.getoption("--whole", False)
    every = [
        (cause, phase, way)
        for i, phase in enumerate(matrix.PHASES)
        for j, cause in enumerate(matrix.TITLES)
        for k, way in enumerate(matrix.WAYS)
        if is_selected(i, j, k, is_whole)
    ]
    metafunc.parametrize(("cause", "phase", "way"), every)


def test_a_crash_is_named_and_no_golden_is_lost(
    prepared: Path, tmp_path: Path, cause: str, phase: str, way: str
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(prepared, folder)
    matrix.write(folder, cause, phase)
    outcome = matrix.run(folder, way)
    print(outcome.text)
    is_quiet = phase == "atexit" and cause in matrix.QUIET_AT_EXIT
    is_child = cause == "child" and phase != "loading"  # there it returns no model
    assert outcome.code == (0 if is_quiet or is_child else 1)
    assert outcome.seconds < matrix.BUDGET
    assert outcome.goldens == matrix.goldens(prepared)
    if not is_quiet:
        assert re.search(matrix.TITLES[cause], outcome.text)
    errors = outcome.counts.get("error", outcome.counts.get("errors", 0))
    if phase == "collection" and not is_child:
        assert errors in (1, 2)  # each worker collects
        assert "test_b.py" in outcome.text or cause == "closed"  # then the file is not known
        return
    passed, failed = outcome.counts.get("passed", 0), outcome.counts.get("failed", 0)
    assert outcome.not_run == 0
    if cause == "pytest.exit" and not is_quiet:  # the session stops
        assert (failed, errors) == (0, 0)
        return
    if cause == "closed" and not is_quiet:  # then the phase is not known
        assert (passed, failed, errors) == (3 if phase == "teardown" else 2, 1, 0)
        return
    expected = {"atexit": (3, 0, 0), "trace": (2, 1, 0), "generate": (2, 1, 0)}
    expected |= {"teardown": (3, 0, 1)}
    assert (passed, failed, errors) == ((3, 0, 0) if is_child else expected.get(phase, (2, 0, 1)))
