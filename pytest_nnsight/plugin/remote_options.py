"""``--nnsight-remote``: what works there, and how its queue is shown."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.settings import Settings

if TYPE_CHECKING:
    from pytest_nnsight.capture.remote import Remote
    from pytest_nnsight.models.spec import ModelSpec


def check_remote(settings: Settings, specs: list[ModelSpec]) -> None:
    """Refuse what does not work where the model is elsewhere."""
    if settings.remote is None:
        return
    installed = metadata.version("nnsight")
    if tuple(map(int, installed.split(".")[:2])) < (0, 8):
        raise UsageError(
            f"--nnsight-remote needs nnsight 0.8, this is {installed}, which sends traces in "
            "another way; upgrade nnsight"
        )
    if settings.calibrate:
        raise UsageError(
            "--nnsight-calibrate measures the noise of this machine, --nnsight-remote runs on "
            "another; use one"
        )
    for spec in specs if settings.is_remote else ():
        if spec.kind != "hub":
            raise UsageError(
                f"NDIF runs models of the model hub, and {spec.public} is none; give a hub id, or "
                "rehearse with --nnsight-remote=local"
            )


def remote_of(settings: Settings, config: pytest.Config, is_terminal: bool) -> Remote | None:
    """Return where the model of a test runs, if not here.

    nnsight tells of the queue in one line that moves, or, where there is no terminal, line by line.
    """
    if settings.remote is None:
        return None
    from pytest_nnsight.capture.remote import Remote

    check_remote(settings, [])
    where = True if settings.remote == "ndif" else settings.remote
    return Remote(where, partial(_shown, config), settings.is_remote and not is_terminal)


@contextmanager
def _shown(config: pytest.Config) -> Iterator[None]:
    """Show what nnsight prints, as it comes, and nothing with ``-q``.

    To show a word at a time would not do: pytest takes stdout back after each.
    """
    capture = config.pluginmanager.getplugin("capturemanager")
    is_quiet = config.get_verbosity() < 0 or sys.__stderr__ is None
    if capture is None or is_quiet:
        with redirect_stdout(io.StringIO() if is_quiet else sys.stdout):
            yield
        return
    with capture.global_and_fixture_disabled(), redirect_stdout(sys.__stderr__):
        yield
