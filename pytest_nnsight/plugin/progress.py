"""Show progress while a session runs, although pytest captures output."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_nnsight.plugin.checks import check_remote
from pytest_nnsight.plugin.keys import TERMINAL
from pytest_nnsight.settings import Settings

if TYPE_CHECKING:
    from pytest_nnsight.capture.remote import Remote


@contextmanager
def uncaptured(config: pytest.Config) -> Iterator[None]:
    """Turn capture off for a block, then restore a ``sys.stdout`` that doctest had replaced."""
    capture, stdout = config.pluginmanager.getplugin("capturemanager"), sys.stdout
    with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
        yield
    sys.stdout = stdout


def progress_writer(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that prints progress on the real stderr, also in a worker; not with -q."""

    def say(text: str) -> None:
        with uncaptured(config):
            print(text, end="", file=sys.__stderr__, flush=True)

    return (lambda text: None) if config.get_verbosity() < 0 else say


def shows_bars(config: pytest.Config) -> bool:
    """Return whether to show progress bars: on a terminal, with at most one worker, without -q."""
    is_one_of_many = getattr(config, "workerinput", {"workercount": 1})["workercount"] > 1
    is_terminal = TERMINAL in config.stash and os.isatty(config.stash[TERMINAL])
    return is_terminal and not is_one_of_many and config.get_verbosity() >= 0


def remote_for(settings: Settings, config: pytest.Config) -> Remote | None:
    """Return where the model of a test runs; ``None`` if it runs in this process.

    On a terminal nnsight shows the queue as one line that it updates; else it prints line by line.
    """
    if settings.remote is None:
        return None
    from pytest_nnsight.capture.remote import Remote

    check_remote(settings, [])
    where = True if settings.remote == "ndif" else settings.remote
    shown = partial(_stdout_shown, config)
    return Remote(where, shown, settings.is_remote and not shows_bars(config))


@contextmanager
def _stdout_shown(config: pytest.Config) -> Iterator[None]:
    """Show at once on stderr what nnsight prints in a block; discard it with ``-q``.

    Capture is off for the whole block: pytest would replace stdout again after each `print`.
    """
    if config.get_verbosity() < 0 or sys.__stderr__ is None:
        with redirect_stdout(io.StringIO()):
            yield
    else:
        with uncaptured(config), redirect_stdout(sys.__stderr__):
            yield
