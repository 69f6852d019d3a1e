"""``--nnsight-prune``: collect every test, run none, list or remove the goldens without a test."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.golden.unused import remove, without_test
from pytest_nnsight.plugin.golden_path import is_hashed, path_of
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.settings import Settings, golden_root


class Pruner:
    """The plugin object of a session that prunes goldens."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        if not settings.model:
            raise UsageError(
                "--nnsight-prune needs the models whose goldens to look at; add --nnsight-model"
            )
        if any("::" in str(argument) for argument in config.args):
            raise UsageError(
                "--nnsight-prune looks at whole files; remove :: and the test after it"
            )
        if getattr(config.option, "lf", False):
            raise UsageError("--nnsight-prune needs all tests, --lf collects some; remove --lf")
        config.option.dist = "no"  # workers would collect the tests, and there is nothing to run
        self._root, self._settings = config.rootpath, settings
        self._folder = golden_root(config.rootpath, settings)
        self._tests: dict[str, set[str]] = {}
        self._lines: list[str] = []

    @pytest.hookimpl
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Store the golden paths of every test by model, before ``-k`` and ``-m`` deselect."""
        from pytest_nnsight.models.spec import parse_spec

        self._tests = {parse_spec(text).name: set() for text in self._settings.model}
        for item in items:
            names = [parse_spec(text).name for text in settings_of(item).model]
            for name in names:
                path = path_of(item, name if len(names) > 1 else None)
                self._tests.setdefault(name, set()).add(path)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run no test; find the goldens without a test, and remove them if asked to."""
        if session.testsfailed:
            raise session.Interrupted("goldens are pruned only where every test file is collected")
        files = {test.rpartition("/")[0] for tests in self._tests.values() for test in tests}
        for name, tests in self._tests.items():
            folder = self._folder / name
            # Listed before any is removed, since `without_test` walks the folder.
            for path in list(without_test(folder, tests, lambda f: f in files or not self._has(f))):
                if self._settings.prune == "remove":
                    remove(path, folder)
                self._lines.append(path.relative_to(self._root).as_posix())
        return True

    def _has(self, file: str) -> bool:
        """Return whether a test file may exist although none of its tests was collected."""
        path = self._root / file
        return file == "suite" or is_hashed(file) or any(path.parent.glob(f"{path.name}.*"))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the goldens without a test."""
        action = "removed" if self._settings.prune == "remove" else "has no test"
        terminalreporter.section("goldens without a test")
        for line in self._lines:
            terminalreporter.write_line(f"{action}: {line}")
        total = f"{len(self._lines)} without a test"
        if self._lines and self._settings.prune == "list":
            total += "; remove them with --nnsight-prune=remove"
        terminalreporter.write_line(total)
