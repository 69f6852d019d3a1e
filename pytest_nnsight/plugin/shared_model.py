"""The model that tests share: what to load for a test, loading it, capturing from it, progress.

Every pytest session imports this module, so it imports other subpackages only when it needs them.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Callable, Iterator, MutableSet
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.plugin.items import settings_of
from pytest_nnsight.plugin.keys import SETTINGS, SHARED, SPECS, TERMINAL, WATCHDOG
from pytest_nnsight.settings import Settings

if TYPE_CHECKING:
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.capture.remote import Remote
    from pytest_nnsight.guard.guard import Guard
    from pytest_nnsight.models.spec import LoadOptions, ModelSpec
    from pytest_nnsight.run import Environment, ModelRecord

    LoadRequest = tuple[ModelSpec, LoadOptions]

_CHANGING = pytest.StashKey[MutableSet[Any]]()
"""On the config: the models in which a module changes its output in place."""


class LoadedModel(NamedTuple):
    """The model of one test. ``spec`` is ``None`` if the project's own fixture made the model."""

    model: Any
    spec: ModelSpec | None
    guard: Guard | None
    is_remote: bool
    """Whether the model runs on a server: then its weights are not known here."""

    @property
    def name(self) -> str:
        """The name of the model's golden folder."""
        return self.spec.name if self.spec else self.identify()[0].model_class

    def identify(self) -> tuple[ModelRecord, Environment]:
        """Describe the model and the machine in their current state."""
        from pytest_nnsight.models.identity import identify

        model, environment = identify(self.model, self.spec)
        return model, replace(environment, device="ndif") if self.is_remote else environment


def load_requests(settings: Settings) -> list[LoadRequest]:
    """Return the models to load, each with its options; tests with equal requests share one."""
    if not settings.model:
        return []
    from pytest_nnsight.models.spec import LoadOptions, parse_spec

    options = LoadOptions(
        settings.device_map,
        settings.dtype,
        settings.attn,
        settings.trust_remote_code,
        settings.is_remote,
    )
    return [(parse_spec(text), options) for text in settings.model]


def load_model(request: pytest.FixtureRequest) -> Any:
    """Load the model that the fixture ``nnsight_model`` is requested for, with a progress bar."""
    config = request.config
    spec, options = getattr(request, "param", None) or _only_request(config)
    from pytest_nnsight.capture.collector import gc_paused

    has_bars, say = _shows_bars(config), _progress_writer(config)
    with _uncaptured(config) if has_bars else nullcontext(), loading_time(config, spec.public):
        if "torch" in sys.modules:  # free the model before this one, whose fixture has ended
            import torch

            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        with gc_paused():
            from pytest_nnsight.models.loading import load  # imports torch, which takes seconds

            model = load(spec, options, say, has_bars)
    config.stash[SPECS] = {id(model): spec}
    return model


def _only_request(config: pytest.Config) -> LoadRequest:
    """Return the request of a test that pytest could not parametrize; skip it without a model.

    Doctests, methods of ``unittest.TestCase`` and ``request.getfixturevalue`` are such cases.
    """
    requests = load_requests(config.stash[SETTINGS])
    if len(requests) > 1:
        raise UsageError(
            f"with {len(requests)} models a test must name its fixtures as arguments: a "
            "doctest, a unittest.TestCase and request.getfixturevalue work with one model"
        )
    if not requests:
        pytest.skip("needs a model: add --nnsight-model gpt2, or tiny:gpt2 which needs no download")
    return requests[0]


def loading_time(config: pytest.Config, name: str) -> AbstractContextManager[None]:
    """Limit a block by ``--nnsight-load-timeout``, and not by the timeout of the test."""
    watchdog = config.stash.get(WATCHDOG, None)
    return nullcontext() if watchdog is None else watchdog.loading(name)


def find_loaded_model(model: Any, item: pytest.Item | pytest.Session) -> LoadedModel:
    """Return a model with its spec and its guard, if it has them."""
    shared, spec = (item.config.stash[key].get(id(model)) for key in (SHARED, SPECS))
    guard = shared.guard if shared else None
    return LoadedModel(model, spec, guard, settings_of(item).is_remote)


def make_capture(model: Any, item: pytest.Item | pytest.Session) -> Capture:
    """Return the `Capture` of a model, with the settings of the test or of the session."""
    from pytest_nnsight.capture.capture import Capture

    config = item.config
    watchdog = config.stash.get(WATCHDOG, None)
    return Capture(
        model,
        find_loaded_model(model, item).identify,
        calibrates=_progress_writer(config) if config.stash[SETTINGS].calibrate else None,
        reached=None if watchdog is None else watchdog.record_module,
        remote=_remote_for(settings_of(item), config),
        changing=config.stash.setdefault(_CHANGING, WeakSet()),
    )


def check_remote(settings: Settings, specs: list[ModelSpec]) -> None:
    """Refuse what does not work with ``--nnsight-remote``."""
    if settings.remote is None:
        return
    installed = metadata.version("nnsight")
    if tuple(map(int, installed.split(".")[:2])) < (0, 8):
        raise UsageError(
            f"--nnsight-remote needs nnsight 0.8 or newer, {installed} is installed; "
            "run pip install --upgrade nnsight"
        )
    if settings.calibrate:
        raise UsageError(
            "--nnsight-calibrate measures the noise of this machine, --nnsight-remote runs on "
            "another; use one"
        )
    for spec in specs if settings.is_remote else ():
        if spec.kind != "hub":
            raise UsageError(
                f"NDIF runs models of the model hub, and {spec.public} is not one; give a hub id, "
                "or rehearse with --nnsight-remote=local"
            )


@contextmanager
def _uncaptured(config: pytest.Config) -> Iterator[None]:
    """Turn capture off for a block, then restore a ``sys.stdout`` that doctest had replaced."""
    capture, stdout = config.pluginmanager.getplugin("capturemanager"), sys.stdout
    with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
        yield
    sys.stdout = stdout


def _progress_writer(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that prints progress on the real stderr, also in a worker; not with -q."""

    def say(text: str) -> None:
        with _uncaptured(config):
            print(text, end="", file=sys.__stderr__, flush=True)

    return (lambda text: None) if config.get_verbosity() < 0 else say


def _shows_bars(config: pytest.Config) -> bool:
    """Return whether to show progress bars: on a terminal, with at most one worker, without -q."""
    is_one_of_many = getattr(config, "workerinput", {"workercount": 1})["workercount"] > 1
    is_terminal = TERMINAL in config.stash and os.isatty(config.stash[TERMINAL])
    return is_terminal and not is_one_of_many and config.get_verbosity() >= 0


def _remote_for(settings: Settings, config: pytest.Config) -> Remote | None:
    """Return where the model of a test runs; ``None`` if it runs in this process.

    On a terminal nnsight shows the queue as one line that it updates; else it prints line by line.
    """
    if settings.remote is None:
        return None
    from pytest_nnsight.capture.remote import Remote

    check_remote(settings, [])
    where = True if settings.remote == "ndif" else settings.remote
    shown = partial(_stdout_shown, config)
    return Remote(where, shown, settings.is_remote and not _shows_bars(config))


@contextmanager
def _stdout_shown(config: pytest.Config) -> Iterator[None]:
    """Show at once on stderr what nnsight prints in a block; discard it with ``-q``.

    Capture is off for the whole block: pytest would replace stdout again after each `print`.
    """
    stderr = None if config.get_verbosity() < 0 else sys.__stderr__
    with _uncaptured(config) if stderr else nullcontext(), redirect_stdout(stderr or io.StringIO()):
        yield
