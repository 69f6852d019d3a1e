"""What the hooks and fixtures of `plugin` do with the rooms below: the wiring of one session.

Imports the services when they are needed, never with this module.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.options import OPTIONS
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.plugin.keys import COLLECTED, SETTINGS, SUITE_NODE, WATCHDOG
from pytest_nnsight.settings import Settings, read_settings

if TYPE_CHECKING:
    pass


def add_options(parser: pytest.Parser) -> None:
    """Offer every option on the command line and as ini key."""
    group = parser.getgroup("nnsight", "testing the insides of a model (pytest-nnsight)")
    for option in OPTIONS:
        keywords: dict[str, Any] = {"dest": option.key, "default": None, "help": option.help}
        if option.is_flag:
            keywords["action"] = "store_true"
        else:
            keywords["metavar"] = option.metavar or option.name.upper()
            keywords["action"] = "append" if option.is_list else "store"
        if option.bare is not None:
            keywords |= {"nargs": "?", "const": option.bare}
        group.addoption(option.flag, **keywords)
        if option.is_list:
            parser.addini(option.key, option.help, type="args")
        else:
            parser.addini(option.key, option.help, type="string")


def _early_settings(config: pytest.Config) -> Settings:
    """Read the settings that are known before conftest files are loaded."""
    try:
        return read_settings(vars(config.known_args_namespace), config.getini)
    except UsageError:  # it is raised again once all options are read
        return Settings()


@contextmanager
def conftest_loading(config: pytest.Config) -> Iterator[None]:
    """Prepare for a worker, and load conftest files within a time limit.

    Where one hangs, the process ends with its stack and exit code 1.
    """
    settings = _early_settings(config)
    if not settings.model:
        yield
        return
    from pytest_nnsight.isolation.limits import duplicate_stderr, hard_limit
    from pytest_nnsight.isolation.mode import announce_worker

    announce_worker(config, settings)
    stderr = duplicate_stderr()
    try:
        with hard_limit("HUNG while loading conftest files", settings.load_timeout, stderr):
            yield
    finally:
        os.close(stderr)


def watch(config: pytest.Config) -> None:
    """Let tests run in workers where they may, and within their time; take hold of stderr."""
    settings = config.stash[SETTINGS]
    config.stash[COLLECTED] = []
    config.pluginmanager.register(CollectedTests(config.stash[COLLECTED]), "nnsight-collected")
    if settings.prune:
        from pytest_nnsight.plugin.prune import Prune

        config.pluginmanager.register(Prune(config, settings), "nnsight-prune")
    if not hasattr(config, "workerinput") and (settings.report or not config.option.collectonly):
        from pytest_nnsight.plugin.reporter import Reporter

        config.pluginmanager.register(Reporter(config, settings.report), "nnsight-report")
    if settings.report:
        from pytest_nnsight.plugin.records import Details

        config.pluginmanager.register(Details(), "nnsight-details")
    if not settings.model:
        return
    from pytest_nnsight.isolation.limits import duplicate_stderr
    from pytest_nnsight.isolation.mode import isolate
    from pytest_nnsight.plugin.keys import TERMINAL

    config.stash[TERMINAL] = duplicate_stderr()
    config.add_cleanup(lambda: os.close(config.stash[TERMINAL]))
    workers = isolate(config, settings)
    if workers:
        from pytest_nnsight.isolation.controller import Controller

        control = Controller(config, workers == "automatic", settings.load_timeout)
        config.pluginmanager.register(control, "nnsight-control")
    else:
        from pytest_nnsight.isolation.watchdog import Watchdog

        config.stash[WATCHDOG] = Watchdog(config, settings, partial(_seconds_of, settings))
        config.pluginmanager.register(config.stash[WATCHDOG], "nnsight-watch")


class CollectedTests:
    """The plugin object that notes every collected test, deselected ones included."""

    def __init__(self, tests: list[tuple[str, Path]]) -> None:
        self._tests = tests

    @pytest.hookimpl(wrapper=True, trylast=True)  # before --lf leaves tests out
    def pytest_make_collect_report(self) -> Iterator[None]:
        """Note the tests of one file or class."""
        report: Any = yield
        tests = (node for node in report.result or () if isinstance(node, pytest.Item))
        self._tests += ((test.nodeid, test.path) for test in tests)
        return report  # type: ignore[no-any-return]


def _seconds_of(settings: Settings, item: pytest.Item) -> float:
    """Return the time that each phase of a test may take."""
    try:
        return settings_of(item, settings).timeout
    except UsageError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


def header(settings: Settings) -> list[str]:
    """Return the lines for pytest's header; none where no model is configured."""
    if not settings.model:
        return []
    packages = ("nnsight", "torch", "transformers")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return [f"nnsight: models {', '.join(settings.model)}; {versions}"]


def collect_suite(session: pytest.Session) -> Iterator[pytest.Item]:
    """Collect the tests of `suite` under a node id that is the same wherever it is installed."""
    path = Path(__file__).with_name("suite.py")
    module = pytest.Module.from_parent(session, path=path, nodeid=SUITE_NODE)
    # Imported by pytest, its folder would come first on the import path: all that is installed
    # beside it before what an environment of `upgrade` has above.
    module.obj = importlib.import_module(f"{__package__}.suite")
    yield from session.genitems(module)
