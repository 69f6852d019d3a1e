"""What the hooks and fixtures of `plugin` do with the rooms below: the wiring of one session.

Imports the services when they are needed, never with this module.
"""

from __future__ import annotations

import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.errors import UsageError, suggest
from pytest_nnsight.settings import Settings, golden_root

if TYPE_CHECKING:
    from pytest_nnsight.models.spec import LoadOptions, ModelSpec
    from pytest_nnsight.run import Environment, ModelRecord, Run

SETTINGS = pytest.StashKey[Settings]()
GOLDENS = pytest.StashKey[Any]()
LOADED = pytest.StashKey[dict[int, Any]]()
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
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        raise UsageError(
            f"two models share the golden folder {max(names, key=names.count)!r}; "
            "name them: --nnsight-model NAME=SPEC"
        )
    LoadOptions(settings.device_map, settings.dtype, settings.attn, settings.trust_remote_code)
    golden_root(config.rootpath, settings)
    if settings.rebaseline:
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
    """Load the model of a request, and let go of it at the end."""
    wanted: LoadRequest | None = getattr(request, "param", None)
    if wanted is None:
        pytest.skip("needs a model: add --nnsight-model gpt2, or tiny:gpt2 which needs no download")
    from pytest_nnsight.models.loading import load

    say = partial(_say, request.config)
    model = load(wanted.spec, wanted.options, say)
    known = request.config.stash[LOADED]
    known[id(model)] = wanted.spec
    try:
        yield model
    finally:
        known.pop(id(model), None)
        _release()


@contextmanager
def watched(model: Any, request: pytest.FixtureRequest) -> Iterator[LoadedModel]:
    """Hand out a model with its spec; put back and report what the test leaves changed on it."""
    from pytest_nnsight import guard

    before = guard.observe(model)
    yield LoadedModel(model, request.config.stash[LOADED].get(id(model)))
    for change in guard.restore(model, before):
        warnings.warn(f"{request.node.nodeid} left on the model: {change}", stacklevel=1)


def golden_assertion(loaded_model: LoadedModel, request: pytest.FixtureRequest) -> Any:
    """Make syrupy's assertion for one test, bound to its golden file."""
    from syrupy.location import PyTestLocation

    from pytest_nnsight.golden.assertion import GoldenAssertion, GoldenContext, GoldenExtension
    from pytest_nnsight.report.failure import failure_lines

    config, item = request.config, request.node
    settings = settings_of(item, config.stash[SETTINGS])
    environment = loaded_model.identify()[1]
    root = golden_root(config.rootpath, settings)
    context = GoldenContext(
        root=config.rootpath,
        folder=root / loaded_model.name / environment.variant,
        test=golden_path(item, loaded_model.name),
        as_run=partial(_as_run, loaded_model),
        fingerprint=loaded_model.fingerprint,
        explain=lambda finding: failure_lines(finding, _refresh(item), _is_detailed(config)),
        read_from=_other_variant(root / loaded_model.name, settings),
        rebaseline=settings.rebaseline,
        tolerance=settings.tolerance,
    )
    item.stash[GOLDENS] = context
    return GoldenAssertion(
        update_snapshots=config.option.update_snapshots,
        update_new_snapshots_only=config.option.update_new_snapshots_only,
        extension_class=GoldenExtension.bound_to(context),
        test_location=PyTestLocation(item),
        session=config._syrupy,  # type: ignore[attr-defined]  # syrupy keeps its session there
    )


def _other_variant(folder: Path, settings: Settings) -> Path | None:
    """Return the folder of ``--nnsight-golden-from``, which must hold goldens of this model."""
    if settings.golden_from is None:
        return None
    variants = sorted(path.name for path in folder.glob("*-*") if path.is_dir())
    if settings.golden_from not in variants:
        raise UsageError(
            f"there are no goldens {folder.name}/{settings.golden_from}; "
            f"nearest: {suggest(settings.golden_from, variants) or 'none yet'}"
        )
    return folder / settings.golden_from


def golden_path(item: pytest.Item, model_name: str) -> str:
    """Return a test's path below its golden folder: ``tests/test_residual/test_stream``.

    The folder of the test file is mirrored; the name of the model, where it is part of the test's
    id, is left out, since it is the folder.
    """
    file, _, inside = item.nodeid.partition("::")
    folder = Path("suite") if file == SUITE_NODE else Path(file).with_suffix("")
    if ".." in folder.parts or folder.is_absolute():
        folder = Path(folder.name)
    name = inside.replace("::", ".")
    before, bracket, parameters = name.partition("[")
    if bracket:
        kept = [part for part in parameters[:-1].split("-") if part != model_name]
        joined = parameters[:-1] if model_name not in parameters else "-".join(kept)
        joined = joined.replace(f"{model_name}-", "").replace(f"-{model_name}", "")
        name = before if joined in ("", model_name) else f"{before}[{joined}]"
    return str(folder / name.replace("/", "_"))


def _as_run(loaded_model: LoadedModel, data: Any) -> Run:
    """Accept what can be compared with a golden: a run, or a dict of tensors."""
    from pytest_nnsight.capture.tensors import run_of_tensors
    from pytest_nnsight.run import Run

    if isinstance(data, Run):
        return data
    if isinstance(data, dict):
        return run_of_tensors(data, *loaded_model.identify())
    raise UsageError(
        f"a golden compares a run or a dict of tensors, got {type(data).__name__}; "
        'write {"name": value} == nnsight_golden'
    )


def with_line(error: Exception, item: pytest.Item) -> str:
    """Return an error's message with the line of the test file that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(item.path)]
    return f"{error} ({item.path.name}:{lines[-1]})" if lines else str(error)


def _refresh(item: pytest.Item) -> str:
    """Return the command that rewrites the golden of one test."""
    words = ["pytest"]
    for model in item.config.getoption("nnsight_model") or ():
        words.append(f"--nnsight-model {shlex.quote(model)}")
    if item.nodeid.startswith(SUITE_NODE):
        words.append(f"--nnsight-suite -k {shlex.quote(item.name.partition('[')[0])}")
    else:
        words.append(shlex.quote(item.nodeid))
    return " ".join([*words, "--snapshot-update"])


def _is_detailed(config: pytest.Config) -> bool:
    return config.get_verbosity() >= 2 or bool(os.environ.get("CI"))


def _say(config: pytest.Config, line: str) -> None:
    """Write progress past the capture of output; from a worker too."""
    if config.get_verbosity() < 0:
        return
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
        print(line, end="", file=sys.__stderr__, flush=True)


def _release() -> None:
    """Give the memory of a model back to its device."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
