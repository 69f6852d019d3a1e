"""Settings that cannot work, refused before anything is collected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.settings import Settings, golden_root

if TYPE_CHECKING:
    from pytest_nnsight.models.spec import ModelSpec


def check(config: pytest.Config, settings: Settings) -> None:
    """Raise `UsageError` for settings that cannot work, before anything is collected."""
    if not settings.model:
        if settings.suite:
            raise UsageError("--nnsight-suite needs a model; add --nnsight-model gpt2 or tiny:gpt2")
        return
    from pytest_nnsight.models.spec import LoadOptions, parse_spec
    from pytest_nnsight.plugin.remote_options import check_remote

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
