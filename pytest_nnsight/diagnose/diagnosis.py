"""Find the cause of a drift by rules, in the order of the data flow.

First come the inputs of the model, then its weights, config and structure, then the code. A cause
is certain where it explains the very call where the drift starts and nothing else could.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

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
    text = evidence.modules.get(evidence.classes.get(evidence.origin.where, ""), "")
    return "" if text.startswith("1 of ") else text.partition(":")[0]


def _from_intervention(evidence: Evidence) -> Cause | None:
    """Blame a changed intervention where weights, config and modules are the same."""
    before, now = evidence.golden.prompt, evidence.received.prompt
    if before.intervention is None or before.intervention_code == now.intervention_code:
        return None
    if evidence.weights[1] or evidence.config or evidence.modules:
        return None
    return Cause("intervention", f"{before.intervention} was changed", is_certain=False)


def _from_model(evidence: Evidence) -> Cause | None:
    """Blame the weights, the config, or library code that builds modules with other settings."""
    (names, weights), config = evidence.weights, evidence.config
    if evidence.origin.start.kind in _STRUCTURE_KINDS and not config:
        return None
    if any(name.startswith(f"{evidence.origin.where}.") for name in names):
        if config:
            return Cause("config and weights", f"{join_first(config)}; {weights}")
        return Cause("weights", weights)
    modules = evidence.modules.items()
    built = next((text for name, text in modules if _has_class(evidence, name)), "")
    if config:
        is_only_change = not names and not evidence.versions
        is_rotary = input_causes.starts_at_changed_rotary(evidence)
        return Cause("config", join_first(config), is_only_change or bool(built) or is_rotary)
    if built:
        return Cause("code", f"same config, but {built}")
    if weights:
        return Cause("weights", weights, is_certain=_is_tied(evidence, names))
    return None


def _is_tied(evidence: Evidence, changed: list[str]) -> bool:
    """Tell whether the starting module has no parameter, but a changed embedding to share."""
    origin, names = evidence.origin, evidence.received_weights or ()
    if any(name.startswith(f"{origin.where}.") for name in names) or not origin.is_jump:
        return False
    owners = [evidence.classes.get(name.rpartition(".")[0], "") for name in changed]
    return any("Embedding" in owner for owner in owners)


def _has_class(evidence: Evidence, name: str) -> bool:
    """Tell whether the starting module, if captured, is or contains a module of a class."""
    where, classes = evidence.origin.where, evidence.classes
    inside = {kind for path, kind in classes.items() if f"{path}.".startswith(f"{where}.")}
    return name in inside or where not in classes


def _from_structure(evidence: Evidence) -> Cause | None:
    """Name what changed next to another structure: versions, else weights, else nothing."""
    if evidence.origin.start.kind not in _STRUCTURE_KINDS:
        return None
    if evidence.versions or evidence.golden.kind != "scan":
        found = evidence.versions or evidence.weights[1]
        return Cause("structure", found or "same weights, config and versions")
    return Cause("structure", evidence.comparison.bits.reason or "same config and versions")


def _from_code_or_numerics(evidence: Evidence) -> Cause:
    """Blame other code or other arithmetic, since weights and config are the same.

    Of tensors that a test made itself, the inputs and the code are unknown.
    """
    comparison, versions = evidence.comparison, evidence.versions
    is_own = evidence.golden.kind == "tensors"
    same = "same weights" if is_own else "same inputs, weights"
    arithmetic = comparison.bits.reason
    largest = max((drift.rel for drift in comparison.failures), default=0.0)
    if arithmetic and largest <= _LARGEST_NOISE * max(comparison.tolerance.rel, 1e-9):
        return Cause("numerics", arithmetic, is_certain=not evidence.origin.is_jump)
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
