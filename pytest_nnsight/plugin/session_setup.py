"""Set up one pytest session: options, plugin objects, header, built-in suite.

Imports other subpackages only when they are needed: every pytest session imports this module.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.options import OPTIONS
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.plugin.keys import COLLECTED, SETTINGS, SUITE_NODE, TERMINAL, WATCHDOG
from pytest_nnsight.settings import Settings, read_settings


def add_options(parser: pytest.Parser) -> None:
    """Define every option for the command line and as an ini key."""
    group = parser.getgroup("nnsight", "testing the internals of a model (pytest-nnsight)")
    for option in OPTIONS:
        keywords: dict[str, Any] = {"dest": option.key, "default": None, "help": option.help}
        if option.is_flag:
            keywords["action"] = "store_true"
        else:
            keywords["metavar"] = option.metavar or option.name.upper()
            keywords["action"] = "append" if option.is_list else "store"
        if option.bare_value is not None:
            keywords |= {"nargs": "?", "const": option.bare_value}
        group.addoption(option.flag, **keywords)
        ini_type: Literal["args", "string"] = "args" if option.is_list else "string"
        parser.addini(option.key, option.help, type=ini_type)


def _early_settings(config: pytest.Config) -> Settings:
    """Read the settings before the conftest files are loaded."""
    try:
        return read_settings(vars(config.known_args_namespace), config.getini)
    except UsageError:  # `pytest_configure` reads them again and reports it
        return Settings()


@contextmanager
def conftest_loading(config: pytest.Config) -> Iterator[None]:
    """Load conftest files within ``--nnsight-load-timeout``, if a model is configured.

    If one hangs, the process prints its stack and exits with code 1.
    """
    settings = _early_settings(config)
    if not settings.model:
        yield
        return
    from pytest_nnsight.isolation.limits import conftest_limit
    from pytest_nnsight.isolation.mode import announce_worker

    announce_worker(config, settings)
    with conftest_limit(settings.load_timeout):
        yield


def register_plugins(config: pytest.Config) -> None:
    """Register the plugin objects that the settings need."""
    settings = config.stash[SETTINGS]
    config.stash[COLLECTED] = []
    config.pluginmanager.register(CollectedTests(config.stash[COLLECTED]), "nnsight-collected")
    if settings.prune:
        from pytest_nnsight.plugin.prune import Pruner

        config.pluginmanager.register(Pruner(config, settings), "nnsight-prune")
    if not hasattr(config, "workerinput") and (settings.report or not config.option.collectonly):
        from pytest_nnsight.plugin.reporter import Reporter

        config.pluginmanager.register(Reporter(config, settings.report), "nnsight-report")
    if settings.report:
        from pytest_nnsight.plugin.records import DetailRecorder

        config.pluginmanager.register(DetailRecorder(), "nnsight-details")
    if settings.model:
        _isolate(config, settings)


def _isolate(config: pytest.Config, settings: Settings) -> None:
    """Run tests in workers if possible; register the controller, or the watchdog of this process.

    The terminal is duplicated now, before pytest captures stderr.
    """
    from pytest_nnsight.isolation.limits import duplicate_stderr
    from pytest_nnsight.isolation.mode import isolate

    config.stash[TERMINAL] = duplicate_stderr()
    config.add_cleanup(lambda: os.close(config.stash[TERMINAL]))
    workers = isolate(config, settings)
    if workers:
        from pytest_nnsight.isolation.controller import Controller

        control = Controller(config, workers == "automatic", settings.load_timeout)
        config.pluginmanager.register(control, "nnsight-control")
    else:
        from pytest_nnsight.isolation.watchdog import Watchdog

        timeout_of = partial(_timeout_of, settings)
        config.stash[WATCHDOG] = Watchdog(config, settings, timeout_of, config.stash[TERMINAL])
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


def _timeout_of(settings: Settings, item: pytest.Item) -> float:
    """Return the seconds that each phase of a test may take."""
    try:
        return settings_of(item, settings).timeout
    except UsageError:  # the check of the model reports a wrong marker, in the test's setup
        return settings.timeout


def header_lines(settings: Settings) -> list[str]:
    """Return the lines for pytest's header: the models and versions; none without a model."""
    if not settings.model:
        return []
    packages = ("nnsight", "torch", "transformers")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return [f"nnsight: models {', '.join(settings.model)}; {versions}"]


def collect_suite(session: pytest.Session) -> Iterator[pytest.Item]:
    """Collect the built-in suite, under the same node id wherever the package is installed."""
    path = Path(__file__).with_name("suite.py")
    module = pytest.Module.from_parent(session, path=path, nodeid=SUITE_NODE)
    # If pytest imported it, pytest would put its folder first on the import path. Then packages of
    # that folder would win over those of an environment that `upgrade` made.
    module.obj = importlib.import_module(f"{__package__}.suite")
    yield from session.genitems(module)
