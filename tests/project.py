"""A project in an empty folder, tested with real pytest in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

TINY = ("--nnsight-model", "tiny:gpt2")
EXAMPLES = Path(__file__).parent / "examples"
"""Test files that are longer than 30 lines, for `Project.copy_example`."""


class Project:
    """A folder with test files; `run` starts pytest there as a user would."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path

    def test_file(self, source: str, name: str = "test_it.py") -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import os, pytest, torch\n" + source, encoding="utf-8")

    def copy_example(self, example: Path) -> None:
        """Copy a file of `EXAMPLES` as ``test_it.py``."""
        shutil.copyfile(example, self.path / "test_it.py")

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest_subprocess(*arguments, timeout=300)

    def write_goldens(self, *arguments: str, **outcomes: int) -> None:
        """Run with ``--snapshot-update`` and assert the outcomes.

        If the same tests have run in the same environment, copy the goldens that they wrote. Most
        tests begin like this, and a session takes ten seconds.
        """
        cache = self.path.parent / "written" / self._key(arguments)
        if not cache.is_dir():
            self.run(*arguments, "--snapshot-update").assert_outcomes(**outcomes)
            shutil.copytree(self.path / "golden", cache, symlinks=True)
        else:
            shutil.copytree(cache, self.path / "golden", symlinks=True, dirs_exist_ok=True)

    def _key(self, arguments: Sequence[str]) -> str:
        """Return a digest of all that may change goldens: files, arguments, environment."""
        ignored = (
            "HOME",
            "USERPROFILE",
            "TMP",
            "TEMP",
            "PYTEST_CURRENT_TEST",
            "PYTEST_DEBUG_TEMPROOT",
        )
        environ = {name: value for name, value in os.environ.items() if name not in ignored}
        files = [
            path for path in self.path.rglob("*") if path.is_file() and ".pyc" not in path.name
        ]
        texts = {str(path.relative_to(self.path)): path.read_bytes() for path in sorted(files)}
        return hashlib.sha256(repr((arguments, environ, texts)).encode()).hexdigest()[:16]

    def goldens(self) -> dict[str, str]:
        """Return the text of every golden by path, without the fingerprints of weights."""
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
