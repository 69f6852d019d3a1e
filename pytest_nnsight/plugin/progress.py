"""What is told while a session runs, past pytest's capture of output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import pytest

from pytest_nnsight.plugin.keys import TERMINAL


@contextmanager
def uncaptured(config: pytest.Config) -> Iterator[Callable[[str], None]]:
    """Give a function that writes progress, with nothing captured where bars are to show."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None and shows_bars(config):
        with _disabled(capture):
            yield partial(print, end="", file=sys.__stderr__, flush=True)
    else:
        yield saying(config)


@contextmanager
def _disabled(capture: Any) -> Iterator[None]:
    """Capture nothing for a while, and then leave stdout to who has taken it, as doctest does."""
    taken = sys.stdout
    with capture.global_and_fixture_disabled():
        yield
    sys.stdout = taken


def saying(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that writes progress past the capture of output; from a worker too."""
    capture = config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        with _disabled(capture) if capture is not None else nullcontext():
            print(text, end="", file=sys.__stderr__, flush=True)

    return (lambda text: None) if config.get_verbosity() < 0 else say


def shows_bars(config: pytest.Config) -> bool:
    """Tell whether progress bars reach a person: a terminal, one worker at most, not ``-q``."""
    is_one_of_many = getattr(config, "workerinput", {"workercount": 1})["workercount"] > 1
    is_terminal = TERMINAL in config.stash and os.isatty(config.stash[TERMINAL])
    return is_terminal and not is_one_of_many and config.get_verbosity() >= 0
