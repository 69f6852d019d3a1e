"""The ``nnsight_golden`` fixture: a test and its model -> an assertion bound to a golden.

The record of each comparison is a user property: workers send it to the controller, and it is
written to JUnit files. Details are much larger, and only sent if ``--nnsight-report`` needs them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_nnsight.errors import LeakError, UsageError, suggest
from pytest_nnsight.plugin.golden_path import location_of, path_of
from pytest_nnsight.plugin.items import command_of, settings_of
from pytest_nnsight.plugin.keys import DETAIL_TEXTS, GOLDEN_ASSERTION, GOLDENS, RECORD, SETTINGS
from pytest_nnsight.settings import Settings, golden_root

if TYPE_CHECKING:
    from pytest_nnsight.diagnose.diagnosis import Finding
    from pytest_nnsight.plugin.shared_model import LoadedModel
    from pytest_nnsight.run import Run


@contextmanager
def golden_assertion(loaded_model: LoadedModel, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Make syrupy's assertion for one test, bound to its golden file; release it after the test."""
    from syrupy.location import PyTestLocation

    from pytest_nnsight.golden.assertion import GoldenAssertion, GoldenExtension
    from pytest_nnsight.golden.context import GoldenContext

    config, item = request.config, request.node
    settings = settings_of(item)
    root = golden_root(config.rootpath, settings)
    context = GoldenContext(
        root=config.rootpath,
        folder=root / loaded_model.name / loaded_model.identify()[1].variant,
        test=path_of(item, loaded_model.name if len(settings.model) > 1 else None),
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
        """Read all weights; return one fingerprint of them all, and one for each parameter."""
        from pytest_nnsight import nnsight_api
        from pytest_nnsight.summary.fingerprint import fingerprint_parameters, weights_fingerprint

        model, guard = self.loaded_model.model, self.loaded_model.guard
        if self.loaded_model.is_remote:
            return None, {}
        if guard is None:
            parameters = fingerprint_parameters(nnsight_api.torch_module(model))
        else:
            parameters = guard.read()
        return weights_fingerprint(parameters), parameters

    def check_unchanged(self) -> bool:
        """Return whether the weights, as `read_weights` read them last, are as loaded.

        Raise `LeakError` if this test changed them. Weights that a fixture changed for its tests
        are allowed, but then the result is false.
        """
        guard = self.loaded_model.guard
        if guard is None:
            return True
        if guard.change and guard.is_checking(self.item.nodeid):
            raise LeakError(
                f"golden not written: {guard.change}; change them in a fixture that restores them"
            )
        return guard.is_as_loaded()

    def explain(self, finding: Finding) -> list[str]:
        """Return the lines of a failure, and record it for the report of the session.

        If a test changed the model without being noticed, the message says that first, so that no
        library is blamed.
        """
        from pytest_nnsight.report.failure import diagnose_finding, failure_lines
        from pytest_nnsight.report.record import record_of_failure

        item, guard, diagnosis = self.item, self.loaded_model.guard, diagnose_finding(finding)
        test = "::".join(location_of(item.nodeid, item.path, item.config.rootpath))
        refresh = f"{command_of(item.config, test)} --snapshot-update"
        is_detailed = item.config.get_verbosity() >= 2 or bool(os.environ.get("CI"))
        first, *rest = failure_lines(finding, diagnosis, refresh, is_detailed)
        if guard is not None and guard.change:
            first = f"{first}, changed since the model was loaded"
            rest = [f"  {guard.change}", *rest]
        self._attach({**record_of_failure(finding, diagnosis), "line": first}, finding)
        return [first, *rest]

    def note_match(self, finding: Finding) -> None:
        """Record a run that matched its golden."""
        from pytest_nnsight.report.record import record_of_match

        record = record_of_match(finding)
        if not self.item.config.getoption("nnsight_exact"):
            record.pop("unchecked", None)
        self._attach(record, finding)

    def _attach(self, record: dict[str, Any], finding: Finding) -> None:
        record["model"] = self.loaded_model.name
        self.item.user_properties.append((RECORD, json.dumps(record, allow_nan=False)))
        if self.item.config.stash[SETTINGS].report:
            from pytest_nnsight.report.record import build_detail

            golden, details = finding.golden, None
            if golden is not None:
                details = build_detail(golden, finding.received, finding.comparison)
            texts = self.item.stash.setdefault(DETAIL_TEXTS, [])
            texts.append(json.dumps(details, allow_nan=False))

    def whole_tensors(self, run: Run) -> dict[str, Any]:
        """Return the stored tensors as arrays ``[tokens, values]``, by the label of a drift."""
        from pytest_nnsight.capture.values import describe
        from pytest_nnsight.compare.drift import leaf_label
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
