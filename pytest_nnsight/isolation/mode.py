"""Whether tests run in a worker of their own: pytest-xdist's options, set where nobody did."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
from packaging.version import Version

from pytest_nnsight.errors import UsageError
from pytest_nnsight.settings import Settings

# After a crash xdist hangs, or crashes for ever, under these; fixed upstream after 3.8.
_HANGING = ("loadgroup", "loadfile", "loadscope")
_FIXED_AFTER = Version("3.8.0")

_ANNOUNCED = pytest.StashKey[bool]()


def is_worker(config: pytest.Config) -> bool:
    """Tell whether this process is a worker of pytest-xdist."""
    return hasattr(config, "workerinput")


def announce_worker(early_config: pytest.Config, settings: Settings) -> None:
    """Show plugins that a worker is coming, before pytest has parsed its options for good.

    pytest-cov chooses between one process and several in ``pytest_load_initial_conftests``, by
    these options. Its choice of several also works where `isolate` later decides against a worker
    (a test path that is not there); the other way round it would end the run.
    """
    options = early_config.known_args_namespace
    has_xdist = early_config.pluginmanager.hasplugin("xdist")
    if not settings.model or settings.isolation == "off" or _why_not(options, settings, has_xdist):
        return
    early_config.stash[_ANNOUNCED] = True
    if options.numprocesses is None and options.dist == "no" and not options.distload:
        _ask_for_worker(options)


def isolate(config: pytest.Config, settings: Settings) -> str:
    """Let tests run in a worker where that is wanted and possible.

    Return ``own`` where the worker is ours, ``user's`` with the user's own ``-n``, else nothing.
    Raise `UsageError` where it is wanted and cannot be.
    """
    option = config.option
    has_xdist = config.pluginmanager.hasplugin("xdist")
    if not settings.model or is_worker(config):
        return ""
    if has_xdist and option.dist != "no":
        _refuse_hanging(option.dist)
        return "" if settings.isolation == "off" else "user's"
    why_not = _why_not(option, settings, has_xdist) or _why_not_now(config)
    if settings.isolation == "off" or (why_not and settings.isolation == "auto"):
        return ""
    if why_not:
        raise UsageError(
            f"--nnsight-isolation=on does not go with {why_not}; leave one of them out"
        )
    _ask_for_worker(option)
    return "own"


def _ask_for_worker(options: Any) -> None:
    options.numprocesses, options.dist, options.tx = 1, "load", ["popen"]


def _why_not(option: Any, settings: Settings, has_xdist: bool) -> str:
    """Name the option that does not work with tests in another process; empty for none."""
    reasons = {
        "-p no:xdist": not has_xdist,
        "--pdb": option.usepdb,
        "--trace": option.trace,
        "-s": option.capture == "no",
        "--collect-only": option.collectonly,
        "--nnsight-prune": settings.prune is not None,
        "--fixtures": option.showfixtures or option.show_fixtures_per_test,
        "-n 0": getattr(option, "numprocesses", None) == 0,
    }
    return next((name for name, holds in reasons.items() if holds), "")


def _why_not_now(config: pytest.Config) -> str:
    """Name what rules out a worker once conftest files are loaded; empty for nothing."""
    if _missing(config):  # a worker does not report it
        return "a path that is not there"
    if config.pluginmanager.hasplugin("_cov") and _ANNOUNCED not in config.stash:
        return "--cov, where a conftest file chooses the model or isolation"
    return ""


def _missing(config: pytest.Config) -> list[str]:
    """Return the test paths that pytest was given and will not find."""
    if config.option.pyargs:
        return []
    folder = config.invocation_params.dir
    return [text for text in config.args if not (folder / text.partition("::")[0]).exists()]


def _refuse_hanging(dist: str) -> None:
    version = Version(metadata.version("pytest-xdist"))
    if dist in _HANGING and version <= _FIXED_AFTER:
        raise UsageError(
            f"--dist {dist} never ends after a worker has crashed (pytest-xdist {version}); "
            "use --dist load or worksteal"
        )
