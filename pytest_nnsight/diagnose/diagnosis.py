"""Find where a drift starts and what caused it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_nnsight.compare import model_changes
from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.compare.model_changes import Fingerprints
from pytest_nnsight.diagnose.causes import RULES, Evidence
from pytest_nnsight.diagnose.origin import locate
from pytest_nnsight.run import Run


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Say where a drift starts and what caused it.

    ``where`` is the path of a module, ``prompt`` for anything that the test asks for, or
    ``generated``. ``cause`` is one of prompt, tokenizer, settings, positions, mask, intervention,
    sampling, weights, config, structure, code and numerics, or two of them joined by ``and`` or
    ``or``. ``evidence`` is the text that supports it. ``class_count`` says how many modules of the
    starting module's class start a drift, like ``5 of 5 LlamaRMSNorm``; empty for only one.
    """

    start: Drift
    where: str
    cause: str
    evidence: str
    is_certain: bool = True
    class_count: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Hold one comparison with a golden, for the report.

    Where there was nothing to compare, only ``golden_file`` and ``error`` are set. ``exact`` are
    the true distances, by label, of tensors that the golden stores in full.
    """

    golden_file: str
    error: str = ""
    golden: Run | None = None
    received: Run | None = None
    comparison: Comparison | None = None
    golden_weights: dict[str, str] | None = None
    received_weights: dict[str, str] | None = None
    exact: dict[str, Distance] = field(default_factory=dict)


def diagnose(
    golden: Run,
    received: Run,
    comparison: Comparison,
    golden_weights: Fingerprints | None = None,
    received_weights: Fingerprints | None = None,
) -> Diagnosis:
    """Find where the failures of a comparison start and what caused them.

    There must be a failure. Weights are fingerprints by parameter, ``None`` where unknown.
    """
    origin = locate(golden, received, comparison)
    evidence = Evidence(
        golden,
        received,
        comparison,
        origin,
        classes={call.path: call.module_class for call in golden.calls},
        parameters=received_weights or (),
        weights=model_changes.changed_weights(golden, received, golden_weights, received_weights),
        config=model_changes.changed_config(golden, received),
        modules=model_changes.changed_modules(golden, received),
        versions=model_changes.changed_versions(golden, received),
    )
    cause = next(found for rule in RULES if (found := rule(evidence)) is not None)
    count = _count_changed_modules(evidence) or origin.class_count
    return Diagnosis(origin.start, origin.where, *cause, class_count=count)


def _count_changed_modules(evidence: Evidence) -> str:
    """Count the modules of the starting module's class with other settings; empty for one."""
    text = evidence.modules.get(evidence.classes.get(evidence.origin.where, ""), "")
    return "" if text.startswith("1 of ") else text.partition(":")[0]
