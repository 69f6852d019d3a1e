"""What the hooks and fixtures of `plugin` do with the rooms below: the wiring of one session.

Imports the services when they are needed, never with this module.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.settings import Settings, golden_root, read_settings

if TYPE_CHECKING:
    from pytest_nnsight.capture.capture import Capture
    from pytest_nnsight.models.spec import LoadOptions, ModelSpec
    from pytest_nnsight.run import Environment, ModelRecord

SETTINGS = pytest.StashKey[Settings]()
GOLDENS = pytest.StashKey[Any]()
TERMINAL = pytest.StashKey[int]()
LOADED = pytest.StashKey[dict[int, Any]]()
WATCH = pytest.StashKey[Any]()
SUITE_NODE = "nnsight-suite"


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """One model to load and how; tests with equal requests share the model."""

    spec: ModelSpec
    options: LoadOptions


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """The model of one test with where it came from; ``spec`` is ``None`` for a user's own."""

    model: Any
    spec: ModelSpec | None

    def identify(self) -> tuple[ModelRecord, Environment]:
        """Describe the model and the machine as they are now."""
        from pytest_nnsight.models.identity import identify

        return identify(self.model, self.spec)

    def fingerprint(self) -> tuple[str, dict[str, str]]:
        """Read all weights as they are now; return one fingerprint and those per parameter."""
        from pytest_nnsight import nnsight_api
        from pytest_nnsight.models.fingerprint import fingerprint_parameters, weights_fingerprint

        parameters = fingerprint_parameters(nnsight_api.torch_module(self.model))
        return weights_fingerprint(parameters), parameters

    @property
    def name(self) -> str:
        """The name of the golden folder."""
        return self.spec.name if self.spec else self.identify()[0].model_class


def check(config: pytest.Config, settings: Settings) -> None:
    """Raise `UsageError` for settings that cannot work, before anything is collected."""
    if not settings.model:
        if settings.suite:
            raise UsageError("--nnsight-suite needs a model; add --nnsight-model gpt2 or tiny:gpt2")
        return
    from pytest_nnsight.models.spec import LoadOptions, parse_spec

    specs = [parse_spec(text) for text in settings.model]
    _check_root(config, specs)
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two models share the golden folder {max(names, key=names.count)!r}; "
            "name them: --nnsight-model NAME=SPEC"
        )
    LoadOptions(settings.device_map, settings.dtype, settings.attn, settings.trust_remote_code)
    golden_root(config.rootpath, settings)
    if settings.rebaseline or settings.calibrate:
        config.option.update_snapshots = True
    updating = config.option.update_snapshots or config.option.update_new_snapshots_only
    if updating and os.environ.get("CI") and not settings.update_in_ci:
        raise UsageError(
            "--snapshot-update is refused under CI, where a golden would follow whatever broke; "
            "update on your own machine, or add --nnsight-update-in-ci"
        )
    if updating and settings.golden_from is not None:
        raise UsageError(
            "--nnsight-golden-from compares across variants, --snapshot-update writes; use one"
        )
    if settings.suite and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


def _check_root(config: pytest.Config, specs: list[ModelSpec]) -> None:
    """Refuse a model's path that pytest took for a test path, losing the project's root.

    pytest finds its root before plugins can say which options take a value: a path behind a space
    counts as one of tests.
    """
    given = [str(argument) for argument in config.invocation_params.args]
    if any(argument.startswith(("--rootdir", "-c", "--config-file")) for argument in given):
        return
    for spec in specs:
        outside = not Path(spec.source).resolve().is_relative_to(config.invocation_params.dir)
        if spec.kind in ("directory", "gguf") and spec.source in given and outside:
            raise UsageError(
                f"write --nnsight-model={spec.source} with an equals sign: behind a space pytest "
                "takes a path for one of tests, and would look for your ini file and goldens there"
            )


@contextmanager
def conftest_limit(config: pytest.Config) -> Iterator[None]:
    """End the process, with its stack, where a conftest file does not end."""
    try:
        settings = read_settings(vars(config.known_args_namespace), config.getini)
    except UsageError:  # said once the options are read for good
        settings = Settings()
    if not settings.model:
        yield
        return
    from pytest_nnsight.isolation.limits import hard_limit

    with hard_limit("HUNG while loading conftest files", settings.load_timeout):
        yield


def watch(config: pytest.Config) -> None:
    """Let tests run in workers where they may, and within their time; take hold of stderr."""
    settings = config.stash[SETTINGS]
    if not settings.model:
        return
    from pytest_nnsight.isolation.limits import terminal
    from pytest_nnsight.isolation.mode import isolate

    config.stash[TERMINAL] = terminal()
    config.add_cleanup(lambda: os.close(config.stash[TERMINAL]))
    workers = isolate(config, settings)
    if workers:
        from pytest_nnsight.isolation.control import Control

        control = Control(config, is_own=workers == "own")
        config.pluginmanager.register(control, "nnsight-control")
    else:
        from pytest_nnsight.isolation.watch import Watch

        config.stash[WATCH] = Watch(config, settings, partial(_seconds_of, settings))
        config.pluginmanager.register(config.stash[WATCH], "nnsight-watch")


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


def settings_of(item: pytest.Item, settings: Settings) -> Settings:
    """Return the settings of one test, its markers' arguments among them."""
    for marker in reversed(list(item.iter_markers("nnsight"))):
        if marker.args:
            raise UsageError("@pytest.mark.nnsight takes named arguments only, like timeout=60")
        settings = settings.for_marker(marker.kwargs)
    return settings


def load_requests(metafunc: pytest.Metafunc, settings: Settings) -> list[LoadRequest]:
    """Return what to load for one test function, a request for each model."""
    if not settings.model:
        return []
    from pytest_nnsight.models.spec import LoadOptions, parse_spec

    own = settings_of(metafunc.definition, settings)
    options = LoadOptions(own.device_map, own.dtype, own.attn, own.trust_remote_code)
    return [LoadRequest(parse_spec(text), options) for text in settings.model]


def collect_suite(session: pytest.Session) -> Iterator[pytest.Item]:
    """Collect the tests of `suite` under a node id that is the same wherever it is installed."""
    path = Path(__file__).with_name("suite.py")
    module = pytest.Module.from_parent(session, path=path, nodeid=SUITE_NODE)
    yield from session.genitems(module)


@contextmanager
def loaded(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Load the model of a request, once the memory of one before it is free."""
    wanted: LoadRequest | None = getattr(request, "param", None)
    if wanted is None:
        pytest.skip("needs a model: add --nnsight-model gpt2, or tiny:gpt2 which needs no download")
    from pytest_nnsight.models.loading import load

    _release()  # of a model before this one: pytest lets go of it only after its fixture's end
    watching = request.config.stash.get(WATCH, None)
    in_time = nullcontext() if watching is None else watching.loading(wanted.spec.public)
    with _uncaptured(request.config) as say, in_time:
        model = load(wanted.spec, wanted.options, say, _shows_bars(request.config))
    request.config.stash[LOADED] = {id(model): wanted.spec}
    yield model


@contextmanager
def watched(model: Any, request: pytest.FixtureRequest) -> Iterator[LoadedModel]:
    """Hand out a model with its spec; put back and report what the test leaves changed on it."""
    from pytest_nnsight import guard

    before = guard.observe(model)
    yield LoadedModel(model, request.config.stash[LOADED].get(id(model)))
    for change in guard.restore(model, before):
        warnings.warn(f"{request.node.nodeid} left on the model: {change}", stacklevel=1)


def with_line(error: Exception, item: pytest.Item) -> str:
    """Return an error's message with the line of the test file that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(item.path)]
    return f"{error} ({item.path.name}:{lines[-1]})" if lines else str(error)


def capture_of(model: LoadedModel, config: pytest.Config) -> Capture:
    """Return the helper that captures runs of a model, and measures noise where asked to."""
    from pytest_nnsight.capture.capture import Capture

    calibrates = _saying(config) if config.stash[SETTINGS].calibrate else None
    watching = config.stash.get(WATCH, None)
    reached = None if watching is None else watching.reach
    return Capture(model.model, model.identify, calibrates=calibrates, reached=reached)


@contextmanager
def _uncaptured(config: pytest.Config) -> Iterator[Callable[[str], None]]:
    """Give a function that writes progress, with nothing captured where bars are to show."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None and _shows_bars(config):
        with capture.global_and_fixture_disabled():
            yield partial(print, end="", file=sys.__stderr__, flush=True)
    else:
        yield _saying(config)


def _saying(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that writes progress past the capture of output; from a worker too."""
    capture = config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
            print(text, end="", file=sys.__stderr__, flush=True)

    return (lambda text: None) if config.get_verbosity() < 0 else say


def _shows_bars(config: pytest.Config) -> bool:
    """Tell whether progress bars reach a person: a terminal, one worker at most, not ``-q``."""
    is_one_of_many = getattr(config, "workerinput", {"workercount": 1})["workercount"] > 1
    is_terminal = TERMINAL in config.stash and os.isatty(config.stash[TERMINAL])
    return is_terminal and not is_one_of_many and config.get_verbosity() >= 0


def _release() -> None:
    """Give the memory of models that nothing refers to back to their device."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
