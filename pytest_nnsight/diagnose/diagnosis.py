"""Find the cause of a drift by rules, in the order of the data flow.

First come the inputs of the model, then its weights, config and structure, then the code. A cause
is certain where it explains the very call where the drift starts and nothing else could.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_nnsight.compare import model_changes
from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.compare.model_changes import Fingerprints
from pytest_nnsight.diagnose import input_causes
from pytest_nnsight.diagnose.evidence import Cause, Evidence, join_first
from pytest_nnsight.diagnose.origin import locate
from pytest_nnsight.run import Run

_STRUCTURE_KINDS = ("missing", "added", "container", "class", "shape", "dtype")
_LARGEST_NOISE = 30.0  # times the tolerance: other arithmetic alone causes no larger drift


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
    evidence = Evidence(golden, received, comparison, origin, golden_weights, received_weights)
    cause = next(found for rule in _RULES if (found := rule(evidence)) is not None)
    count = _count_changed_modules(evidence) or origin.class_count
    where = origin.where
    return Diagnosis(origin.start, where, cause.name, cause.evidence, cause.is_certain, count)


def _count_changed_modules(evidence: Evidence) -> str:
    """Count the modules of the starting module's class with other settings; empty for one."""
    classes = {call.path: call.module_class for call in evidence.golden.calls}
    changes = model_changes.changed_modules(evidence.golden, evidence.received)
    text = changes.get(classes.get(evidence.origin.where, ""), "")
    count = text.partition(":")[0]
    return "" if count.startswith("1 of ") else count


def _from_intervention(evidence: Evidence) -> Cause | None:
    """Blame a changed intervention where weights, config and modules are the same."""
    golden, received = evidence.golden, evidence.received
    name, code = golden.prompt.intervention, golden.prompt.intervention_code
    if name is None or code == received.prompt.intervention_code:
        return None
    changes = (model_changes.changed_config, model_changes.changed_modules)
    if _changed_weights(evidence)[1] or any(find(golden, received) for find in changes):
        return None
    return Cause("intervention", f"{name} was changed", is_certain=False)


def _from_model(evidence: Evidence) -> Cause | None:
    """Blame the weights, the config, or library code that builds modules with other settings."""
    golden, received, where = evidence.golden, evidence.received, evidence.origin.where
    names, weights = _changed_weights(evidence)
    config = model_changes.changed_config(golden, received)
    if evidence.origin.start.kind in _STRUCTURE_KINDS and not config:
        return None
    if any(name.startswith(f"{where}.") for name in names):
        if config:
            return Cause("config and weights", f"{join_first(config)}; {weights}")
        return Cause("weights", weights)
    modules = model_changes.changed_modules(golden, received)
    built = next((text for name, text in modules.items() if _has_class(evidence, name)), "")
    if config:
        is_only_change = not names and not model_changes.changed_versions(golden, received)
        is_certain = (
            is_only_change or bool(built) or input_causes.starts_at_changed_rotary(evidence)
        )
        return Cause("config", join_first(config), is_certain)
    if built:
        return Cause("code", f"same config, but {built}")
    if weights:
        return Cause("weights", weights, is_certain=_is_tied(evidence, names))
    return None


def _changed_weights(evidence: Evidence) -> tuple[list[str], str]:
    """Return the names of parameters that differ, and the difference as text."""
    return model_changes.changed_weights(
        evidence.golden, evidence.received, evidence.golden_weights, evidence.received_weights
    )


def _is_tied(evidence: Evidence, changed: list[str]) -> bool:
    """Tell whether the starting module has no parameter, but a changed embedding to share."""
    origin, names = evidence.origin, evidence.received_weights or ()
    if any(name.startswith(f"{origin.where}.") for name in names) or not origin.is_jump:
        return False
    classes = {call.path: call.module_class for call in evidence.golden.calls}
    owners = [name.rpartition(".")[0] for name in changed]
    return any("Embedding" in classes.get(owner, "") for owner in owners)


def _has_class(evidence: Evidence, name: str) -> bool:
    """Tell whether the starting module, if captured, is or contains a module of a class."""
    where, calls = evidence.origin.where, evidence.golden.calls
    classes = {c.module_class for c in calls if f"{c.path}.".startswith(f"{where}.")}
    return name in classes or where not in evidence.golden.paths


def _from_structure(evidence: Evidence) -> Cause | None:
    """Name what changed next to another structure: versions, else weights, else nothing."""
    if evidence.origin.start.kind not in _STRUCTURE_KINDS:
        return None
    if versions := model_changes.changed_versions(evidence.golden, evidence.received):
        return Cause("structure", versions)
    if evidence.golden.kind == "scan":
        return Cause("structure", evidence.comparison.bits.reason or "same config and versions")
    weights = _changed_weights(evidence)[1]
    return Cause("structure", weights or "same weights, config and versions")


def _from_code_or_numerics(evidence: Evidence) -> Cause:
    """Blame other code or other arithmetic, since weights and config are the same.

    Of tensors that a test made itself, the inputs and the code are unknown.
    """
    comparison, origin = evidence.comparison, evidence.origin
    is_own = evidence.golden.kind == "tensors"
    same = "same weights" if is_own else "same inputs, weights"
    versions = model_changes.changed_versions(evidence.golden, evidence.received)
    arithmetic = comparison.bits.reason
    largest = max((drift.rel for drift in comparison.failures), default=0.0)
    is_small = largest <= _LARGEST_NOISE * max(comparison.tolerance.rel, 1e-9)
    if arithmetic and is_small:
        return Cause("numerics", arithmetic, is_certain=not origin.is_jump)
    if versions:
        is_certain = not arithmetic and not is_own
        return Cause("code", f"{same} and config; {versions}", is_certain)
    if arithmetic:
        return Cause("code or numerics", f"{same} and config; {arithmetic}", is_certain=False)
    suspects = f"{'the test, ' if is_own else ''}a patched module, a hook or an edit"
    return Cause("code", f"{same}, config and versions: {suspects}", is_certain=not is_own)


# The first rule that returns a cause decides; the last one always does.
_RULES: tuple[Callable[[Evidence], Cause | None], ...] = (
    input_causes.from_request,
    input_causes.from_token_divergence,
    input_causes.from_changed_tensors,
    input_causes.from_model_inputs,
    _from_intervention,
    _from_model,
    _from_structure,
    _from_code_or_numerics,
)
