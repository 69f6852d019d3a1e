"""Fixtures of the tests that run pytest in a project; `Project` is in ``tests/project.py``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from project import Project


@pytest.fixture
def leaky(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn leak detection off: the project's tests write weights, as an upgrade would."""
    monkeypatch.setenv("PYTEST_NNSIGHT_LEAKS", "off")


@pytest.fixture
def first_line() -> Callable[..., str]:
    """Return a function that finds the first line of a failure: the text after pytest's ``E``."""

    def find(result: pytest.RunResult, test: str | None = None) -> str:
        lines = list(result.outlines)
        if test is not None:
            start = next(i for i, line in enumerate(lines) if f"_ {test} _" in line)
            lines = lines[start:]
        for line in lines:
            if line.startswith("E  "):
                text = line[1:].strip()
                return text.removeprefix("AssertionError: ").removeprefix("assert ")
        raise AssertionError("\n".join(result.outlines))

    return find
