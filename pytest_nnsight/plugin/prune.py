"""``--nnsight-prune``: every test is collected, none is run, goldens without one are named."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.golden.unused import remove, without_test
from pytest_nnsight.plugin.golden_path import golden_paths, is_hashed
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.settings import Settings, golden_root


class Prune:
    """The plugin object of a session that prunes."""

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        if not settings.model:
            raise UsageError("--nnsight-prune needs the models whose goldens to look at")
        if any("::" in str(argument) for argument in config.args):
            raise UsageError("--nnsight-prune looks at whole files; leave out what is behind ::")
        if getattr(config.option, "lf", False):
            raise UsageError("--nnsight-prune needs all tests, --lf collects some; use one")
        config.option.dist = "no"  # workers would collect what is not to be run
        self._root, self._settings = config.rootpath, settings
        self._folder = golden_root(config.rootpath, settings)
        self._tests: dict[str, set[str]] = {}
        self._lines: list[str] = []

    @pytest.hookimpl
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Note every test there is, by its models, before ``-k`` and others leave some out."""
        from pytest_nnsight.models.spec import parse_spec

        paths = golden_paths(config)
        self._tests = {parse_spec(text).name: set() for text in self._settings.model}
        for item in items:
            names = [parse_spec(text).name for text in settings_of(item, self._settings).model]
            for name in names:
                path = paths.path_of(item, name if len(names) > 1 else None)
                self._tests.setdefault(name, set()).add(path)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run no test; list, and remove where told."""
        if session.testsfailed:
            raise session.Interrupted("goldens are pruned only where every test file is collected")
        files = {test.rpartition("/")[0] for tests in self._tests.values() for test in tests}
        found = []
        for name, tests in self._tests.items():
            paths = without_test(
                self._folder / name, tests, lambda file: file in files or not self._has(file)
            )
            found += [(self._folder / name, path) for path in paths]
        for folder, path in found:
            if self._settings.prune == "remove":
                remove(path, folder)
            self._lines.append(path.relative_to(self._root).as_posix())
        return True

    def _has(self, file: str) -> bool:
        """Tell whether a test file may still be there, whose tests were not all collected."""
        if file == "suite" or is_hashed(file):
            return True
        path = self._root / file
        return any(path.parent.glob(f"{path.name}.*")) if path.parent.is_dir() else False

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was found."""
        done = "removed" if self._settings.prune == "remove" else "has no test"
        terminalreporter.section("goldens without a test")
        for line in self._lines:
            terminalreporter.write_line(f"{done}: {line}")
        what = f"{len(self._lines)} without a test"
        if self._lines and self._settings.prune == "list":
            what += "; remove them with --nnsight-prune=remove"
        terminalreporter.write_line(what)
