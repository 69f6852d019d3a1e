"""Refuse settings that cannot work, before anything is collected."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.settings import Settings, golden_root

if TYPE_CHECKING:
    from pytest_nnsight.models.spec import ModelSpec


def check(config: pytest.Config, settings: Settings) -> None:
    """Raise `UsageError` for settings that cannot work; let some settings imply pytest options."""
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


def _check_root(config: pytest.Config, specs: list[ModelSpec]) -> None:
    """Refuse a model path that pytest has taken for a test path, and so for the project's root.

    pytest finds its root folder before plugins define their options. So it takes the path in
    ``--nnsight-model PATH`` for a test path, but not the one in ``--nnsight-model=PATH``.
    """
    arguments = [str(argument) for argument in config.invocation_params.args]
    if any(argument.startswith(("--rootdir", "-c", "--config-file")) for argument in arguments):
        return
    for spec in specs:
        is_outside = not Path(spec.source).resolve().is_relative_to(config.invocation_params.dir)
        if spec.kind in ("directory", "gguf") and spec.source in arguments and is_outside:
            raise UsageError(
                f"write --nnsight-model={spec.source} with an equals sign: after a space pytest "
                "takes the path for a test path, and looks for your ini file and goldens there"
            )
