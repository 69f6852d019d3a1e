"""The ``nnsight_golden`` fixture: a test and its model -> an assertion bound to a golden."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.errors import UsageError, suggest
from pytest_nnsight.plugin.golden_path import golden_paths, location_of
from pytest_nnsight.plugin.items import command_of, settings_of
from pytest_nnsight.plugin.keys import GOLDEN_ASSERTION, GOLDENS, SETTINGS
from pytest_nnsight.plugin.records import note_failure, note_match
from pytest_nnsight.settings import Settings, golden_root

if TYPE_CHECKING:
    from pytest_nnsight.diagnose.diagnosis import Finding
    from pytest_nnsight.plugin.loaded_model import LoadedModel
    from pytest_nnsight.run import Run


@contextmanager
def golden_assertion(loaded_model: LoadedModel, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Make syrupy's assertion for one test, bound to its golden file; release it after the test."""
    from syrupy.location import PyTestLocation

    from pytest_nnsight.golden.assertion import GoldenAssertion, GoldenExtension
    from pytest_nnsight.golden.context import GoldenContext

    config, item = request.config, request.node
    settings = settings_of(item, config.stash[SETTINGS])
    root = golden_root(config.rootpath, settings)
    context = GoldenContext(
        root=config.rootpath,
        folder=root / loaded_model.name / loaded_model.identify()[1].variant,
        test=golden_paths(config).path_of(
            item, loaded_model.name if len(settings.model) > 1 else None
        ),
        host=ItemHost(item, loaded_model),
        settings=settings,
        read_from=_other_variant(root / loaded_model.name, settings),
        is_updating=config.option.update_snapshots,
    )
    item.stash[GOLDENS] = context
    config.stash[GOLDEN_ASSERTION] = GoldenAssertion
    assertion = GoldenAssertion(
        update_snapshots=config.option.update_snapshots,
        update_new_snapshots_only=config.option.update_new_snapshots_only,
        extension_class=GoldenExtension.bound_to(context),
        test_location=PyTestLocation(item),
        session=config._syrupy,  # type: ignore[attr-defined]  # syrupy keeps its session there
    )
    yield assertion
    assertion.release()


@dataclass(frozen=True, slots=True)
class ItemHost:
    """One test item with its model, as the golden code sees it (`golden.context.GoldenHost`)."""

    item: pytest.Item
    loaded_model: LoadedModel

    def as_run(self, data: Any) -> Run:
        """Accept what can be compared with a golden: a run, or a dict of tensors."""
        from pytest_nnsight.capture.tensors import run_of_tensors
        from pytest_nnsight.run import Run

        if isinstance(data, Run):
            return data
        if isinstance(data, dict):
            return run_of_tensors(data, *self.loaded_model.identify())
        raise UsageError(
            f"a golden compares a run or a dict of tensors, got {type(data).__name__}; "
            'write {"name": value} == nnsight_golden'
        )

    def read_weights(self) -> tuple[str | None, dict[str, str]]:
        """Read the weights as they are now."""
        return self.loaded_model.fingerprint()

    def check_unchanged(self) -> bool:
        """Raise `LeakError` if the test changed the weights; return whether they are as loaded."""
        return self.loaded_model.check_unchanged(self.item.nodeid)

    def explain(self, finding: Finding) -> list[str]:
        """Return the lines of a failure, and record it for the report of the session.

        If a test changed the model without being noticed, the message says that first, so that no
        library is blamed.
        """
        from pytest_nnsight.report.failure import diagnose_finding, failure_lines

        item, model, diagnosis = self.item, self.loaded_model, diagnose_finding(finding)
        test = "::".join(location_of(item.nodeid, item.path, item.config.rootpath))
        refresh = f"{command_of(item.config, test)} --snapshot-update"
        first, *rest = failure_lines(finding, diagnosis, refresh, _is_detailed(item.config))
        if model.change:
            first = f"{first}, changed since the model was loaded"
            rest = [f"  {model.change}", *rest]
        note_failure(item, model.name, finding, diagnosis, first)
        return [first, *rest]

    def note_match(self, finding: Finding) -> None:
        """Record a run that matched its golden."""
        note_match(self.item, self.loaded_model.name, finding)

    def whole_tensors(self, run: Run) -> dict[str, Any]:
        """Return the stored tensors as arrays ``[tokens, values]``, by the label of a drift."""
        from pytest_nnsight.capture.values import describe
        from pytest_nnsight.compare.measurement import leaf_label
        from pytest_nnsight.run import Leaf, Summary
        from pytest_nnsight.summary.statistics import tokens_of

        tensors = {}
        for key, value in run.tensors.items():
            call = run[key].call
            for at, tensor in describe(value)[1]:
                if tensor.is_floating_point():
                    wide = tensor if tensor.element_size() >= 4 else tensor.float()
                    label = leaf_label(call, Leaf(at, Summary((), "")))
                    tensors[label] = tokens_of(wide).cpu().numpy()
        return tensors


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


def _is_detailed(config: pytest.Config) -> bool:
    return config.get_verbosity() >= 2 or bool(os.environ.get("CI"))
