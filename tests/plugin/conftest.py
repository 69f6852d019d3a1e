"""A project in an empty folder, tested with real pytest in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TINY = ("--nnsight-model", "tiny:gpt2")


class Project:
    """A folder with test files; `run` starts pytest there as a user would."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path

    def test_file(self, source: str, name: str = "test_it.py") -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import os, pytest, torch\n" + source, encoding="utf-8")

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess(*arguments, timeout=300)

    def goldens(self) -> dict[str, str]:
        """Return the text of every golden, the fingerprints of weights apart, by path."""
        found = sorted((self.path / "golden").rglob("*.json"))
        return {
            str(path.relative_to(self.path / "golden")): path.read_text(encoding="utf-8")
            for path in found
            if path.name != "weights.json"
        }

    def golden(self, name: str, model: str = "tiny-gpt2", variant: str = "cpu-float32") -> Path:
        return self.path / "golden" / model / variant / f"{name}.json"

    def read(self, name: str) -> Any:
        return json.loads(self.golden(name).read_text(encoding="utf-8"))


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project, outside CI and without a model hub."""
    for name in list(os.environ):
        if name.startswith("PYTEST_") or name in ("CI", "BUILD_NUMBER", "COLUMNS"):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Project(pytester)


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
