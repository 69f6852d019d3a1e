"""Set up one pytest session: options, settings, plugin objects, header, the tests to run.

Imports other subpackages only when they are needed: every pytest session imports this module.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.options import MARKER_KEYS, OPTIONS
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.plugin.keys import (
    COLLECTED,
    FIXTURE,
    SETTINGS,
    SHARED,
    SPECS,
    SUITE_NODE,
    TERMINAL,
    WATCHDOG,
)
from pytest_nnsight.plugin.shared_model import check_remote, load_requests
from pytest_nnsight.settings import Settings, golden_root, read_settings


def pytest_addoption(parser: pytest.Parser) -> None:
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


def _join_model_paths(arguments: list[str]) -> list[str]:
    """Write ``--nnsight-model PATH`` as ``--nnsight-model=PATH`` wherever the path exists.

    Pytest finds its root folder before plugins define their options. So it takes a path after a
    space for a test path, and would look there for the ini file and the goldens.
    """
    joined: list[str] = []
    for argument in arguments:
        if joined[-1:] == ["--nnsight-model"] and os.path.exists(argument.partition("::")[0]):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _corrected_arguments(config: pytest.Config) -> tuple[list[str], list[str]] | None:
    """Return pytest's arguments and ``PYTEST_ADDOPTS`` with joined paths, if there are any."""
    arguments = [*map(str, config.invocation_params.args)]
    addopts = shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    joined = _join_model_paths(arguments), _join_model_paths(addopts)
    return None if joined == (arguments, addopts) else joined


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Start pytest again with joined model paths, so that it finds the right root folder."""
    corrected = _corrected_arguments(config)
    if corrected is None:
        return None
    arguments, addopts = corrected
    wrong_paths = {*map(str, config.getini("pythonpath"))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [path for path in sys.path if path not in wrong_paths])
        if addopts:
            patch.setenv("PYTEST_ADDOPTS", shlex.join(addopts))
        return pytest.main(arguments, [*(config.invocation_params.plugins or ())])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> Iterator[None]:
    """Load conftest files within ``--nnsight-load-timeout``, if a model is configured.

    If one hangs, the process prints its stack and exits with code 1. Load none and drop all
    arguments if `pytest_cmdline_main` will start pytest again.
    """
    if _corrected_arguments(early_config) is not None:
        args[:] = ["--noconftest", str(early_config.invocation_params.dir)]
        early_config.known_args_namespace = parser.parse_known_args(args)
        return (yield)
    try:
        settings = read_settings(vars(early_config.known_args_namespace), early_config.getini)
    except UsageError:  # `pytest_configure` reads them again and reports it
        settings = Settings()
    if not settings.model:
        return (yield)
    from pytest_nnsight.isolation.limits import conftest_limit
    from pytest_nnsight.isolation.mode import announce_worker

    announce_worker(early_config, settings)
    with conftest_limit(settings.load_timeout):
        return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings, check them without a model, and register the plugin objects."""
    marker = f"nnsight({', '.join(MARKER_KEYS)}): settings of pytest-nnsight for one test"
    config.addinivalue_line("markers", marker)
    config.stash[SHARED], config.stash[SPECS], config.stash[COLLECTED] = {}, {}, []
    try:
        settings = config.stash[SETTINGS] = read_settings(vars(config.option), config.getini)
        _check(config, settings)
        _register_plugins(config, settings)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def _check(config: pytest.Config, settings: Settings) -> None:
    """Raise `UsageError` for settings that cannot work; let some settings imply pytest options."""
    if not settings.model:
        if settings.suite:
            raise UsageError("--nnsight-suite needs a model; add --nnsight-model gpt2 or tiny:gpt2")
        return
    specs = [spec for spec, _ in load_requests(settings)]
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two models share the golden folder {max(names, key=names.count)!r}; "
            "name them: --nnsight-model NAME=SPEC"
        )
    check_remote(settings, specs)
    golden_root(config.rootpath, settings)
    if settings.rebaseline or settings.calibrate:
        config.option.update_snapshots = True
    _check_update(config, settings)
    if settings.suite and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []  # without test paths on the command line, run the suite alone


def _check_update(config: pytest.Config, settings: Settings) -> None:
    """Refuse to write goldens under CI or across variants."""
    if not (config.option.update_snapshots or config.option.update_new_snapshots_only):
        return
    if os.environ.get("CI") and not settings.update_in_ci:
        raise UsageError(
            "--snapshot-update is refused under CI, where it would accept any drift as the new "
            "golden; update on your own machine, or add --nnsight-update-in-ci"
        )
    if settings.golden_from is not None:
        raise UsageError(
            "--nnsight-golden-from only compares, --snapshot-update writes goldens; remove one"
        )


def _register_plugins(config: pytest.Config, settings: Settings) -> None:
    """Register the plugin objects that the settings need."""
    if settings.prune:
        from pytest_nnsight.plugin.prune import Pruner

        config.pluginmanager.register(Pruner(config, settings), "nnsight-prune")
    if not hasattr(config, "workerinput") and (settings.report or not config.option.collectonly):
        from pytest_nnsight.plugin.reporter import Reporter

        config.pluginmanager.register(Reporter(config, settings.report), "nnsight-report")
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

        config.stash[WATCHDOG] = Watchdog(config, settings, _timeout_of, config.stash[TERMINAL])
        config.pluginmanager.register(config.stash[WATCHDOG], "nnsight-watch")


def _timeout_of(item: pytest.Item) -> float:
    """Return the seconds that each phase of a test may take."""
    try:
        return settings_of(item).timeout
    except UsageError:  # the check of the model reports a wrong marker, in the test's setup
        return item.config.stash[SETTINGS].timeout


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Show the models under test, and the versions of the libraries that compute."""
    models = config.stash[SETTINGS].model
    if not models:
        return []
    packages = ("nnsight", "torch", "transformers")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return [f"nnsight: models {', '.join(models)}; {versions}"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize each test that uses a model with the models of ``--nnsight-model``."""
    if FIXTURE not in metafunc.fixturenames:
        return
    try:
        requests = load_requests(settings_of(metafunc.definition))
    except UsageError as error:
        raise pytest.Collector.CollectError(str(error)) from None
    if requests:
        ids = [pytest.HIDDEN_PARAM] if len(requests) == 1 else [spec.name for spec, _ in requests]
        metafunc.parametrize(FIXTURE, requests, ids=ids, indirect=True, scope="session")


@pytest.hookimpl(wrapper=True, trylast=True)  # before --lf leaves tests out
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Note the tests of one file or class, also those that will be deselected."""
    report: Any = yield
    tests = (node for node in report.result or () if isinstance(node, pytest.Item))
    collector.config.stash[COLLECTED] += ((test.nodeid, test.path) for test in tests)
    return report  # type: ignore[no-any-return]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the tests of ``--nnsight-suite``, with one node id wherever the package is installed."""
    if not session.config.stash[SETTINGS].suite:
        return
    path = Path(__file__).with_name("suite.py")
    module = pytest.Module.from_parent(session, path=path, nodeid=SUITE_NODE)
    # If pytest imported it, pytest would put its folder first on the import path. Then packages of
    # that folder would win over those of an environment that `upgrade` made.
    module.obj = importlib.import_module(f"{__package__}.suite")
    items.extend(session.genitems(module))
