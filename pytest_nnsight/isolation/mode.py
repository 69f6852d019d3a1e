"""Decide whether tests run in a worker, and set pytest-xdist's options accordingly."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
from packaging.version import Version

from pytest_nnsight.errors import UsageError
from pytest_nnsight.settings import Settings

# With these, xdist hangs or crashes for ever after a crash of a worker; fixed after 3.8.
_HANGING = ("loadgroup", "loadfile", "loadscope")
_LAST_HANGING = Version("3.8.0")
_ANNOUNCED = pytest.StashKey[bool]()


def is_worker(config: pytest.Config) -> bool:
    """Tell whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def announce_worker(early_config: pytest.Config, settings: Settings) -> None:
    """Tell pytest-cov that tests will run in a worker, before pytest has parsed all options.

    It reads them in ``pytest_load_initial_conftests``. Its choice of several processes also works
    if `isolate` decides against a worker later; the reverse would end the session.
    """
    options = early_config.known_args_namespace
    if settings.isolation == "off" or _conflict(early_config, options, settings):
        return
    early_config.stash[_ANNOUNCED] = True
    if options.numprocesses is None and options.dist == "no" and not options.distload:
        _use_one_worker(options)


def isolate(config: pytest.Config, settings: Settings) -> str:
    """Let tests run in a worker if that is asked for and possible.

    Return ``automatic`` for a worker that this function chose, ``user`` for workers by ``-n``, and
    an empty string for none. Raise `UsageError` if ``--nnsight-isolation=on`` is not possible.
    """
    option = config.option
    if is_worker(config):
        return ""
    if config.pluginmanager.hasplugin("xdist") and option.dist != "no":
        version = Version(metadata.version("pytest-xdist"))
        if option.dist in _HANGING and version <= _LAST_HANGING:
            raise UsageError(
                f"--dist {option.dist} never ends after a worker has crashed "
                f"(pytest-xdist {version}); use --dist load or worksteal"
            )
        if settings.isolation == "off":
            return ""
        far = next((spec for spec in option.tx if "popen" not in spec.partition("//")[0]), None)
        if far is not None:
            raise UsageError(
                f"--tx {far} runs tests on another machine, where a hang cannot be ended; "
                "use popen workers, or --nnsight-isolation=off"
            )
        return "user"
    conflict = _conflict(config, option, settings) or _late_conflict(config)
    if settings.isolation == "off" or (conflict and settings.isolation == "auto"):
        return ""
    if conflict:
        message = f"--nnsight-isolation=on does not go with {conflict}; leave one of them out"
        raise UsageError(message)
    _use_one_worker(option)
    return "automatic"


def _use_one_worker(options: Any) -> None:
    options.numprocesses, options.dist, options.tx = 1, "load", ["popen"]


def _conflict(config: pytest.Config, option: Any, settings: Settings) -> str:
    """Return the option that does not work with tests in another process; empty for none."""
    conflicts = {
        "-p no:xdist": not config.pluginmanager.hasplugin("xdist"),
        "--pdb": option.usepdb,
        "--trace": option.trace,
        "-s": option.capture == "no",
        "--collect-only": option.collectonly,
        "--nnsight-prune": settings.prune is not None,
        "--fixtures": option.showfixtures or option.show_fixtures_per_test,
        "-n 0": getattr(option, "numprocesses", None) == 0,
    }
    return next((name for name, applies in conflicts.items() if applies), "")


def _late_conflict(config: pytest.Config) -> str:
    """Return what makes a worker impossible once conftest files are loaded; empty for nothing."""
    folder, paths = config.invocation_params.dir, [text.partition("::")[0] for text in config.args]
    if not config.option.pyargs and not all((folder / path).exists() for path in paths):
        return "a path that is not there"  # a worker does not report it
    if config.pluginmanager.hasplugin("_cov") and _ANNOUNCED not in config.stash:
        return "--cov, where a conftest file chooses the model or isolation"
    return ""
