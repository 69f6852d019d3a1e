"""Fixtures around `project.Project`.

What tests import by name is not here: there are several conftest modules, of one name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from project import Project


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project, outside CI and without a model hub."""
    for name in list(os.environ):
        if name.startswith("PYTEST_") or name in ("CI", "BUILD_NUMBER", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Project(pytester)


@pytest.fixture
def leaky(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests of the project write weights, as an upgrade would: that is no leak here."""
    monkeypatch.setenv("PYTEST_NNSIGHT_LEAKS", "off")


@pytest.fixture
def first_line() -> Callable[..., str]:
    """Return the first line of a failure: what pytest prints behind ``E``, or on its own."""

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


@pytest.fixture(scope="session")
def saved_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny GPT-2 as ``save_pretrained`` leaves it, once per session."""
    import torch

    from pytest_nnsight.models import tiny

    folder = tmp_path_factory.mktemp("models") / "my-gpt2"
    model, tokenizer = tiny.build("gpt2", torch.float32, None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
