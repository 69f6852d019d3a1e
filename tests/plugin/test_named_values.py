"""A changed value of a dict is named by its key, a nested one by all its keys."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
from project import EXAMPLES, TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

VALUES = EXAMPLES / "changed_values.py"
STARTS = {
    "layer": "hidden.layers[[]1] (rel *",
    "number": "hidden.by number[[]0] (rel *",
    "array": "array (rel *",
    "best": "best (rel *",
    "text": "text[[]0] *",
    "pair": "pair out[[]0] (rel *",
    "fewer": "hidden.layers[[]1] *",
}


def test_a_changed_value_is_named_by_its_keys(
    project: Project, monkeypatch: pytest.MonkeyPatch, first_line: Callable[..., str]
) -> None:
    project.copy_example(VALUES)
    project.write_goldens(*TINY, passed=8)
    monkeypatch.setenv("CHANGE", "1")
    result = project.run(*TINY)
    result.assert_outcomes(passed=1, failed=7)
    for what, start in STARTS.items():
        line = first_line(result, f"test_changed[{what}]")
        assert fnmatchcase(line, f"golden drift: 1 of 8 calls, starts at {start}"), line
