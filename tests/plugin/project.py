"""A project in an empty folder, tested with real pytest in a process of its own."""

from __future__ import annotations

import json
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
