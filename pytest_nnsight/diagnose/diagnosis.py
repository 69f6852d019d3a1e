"""Drifts -> where they start and why. Neither torch nor pytest is needed.

The causes are tried from the outside in: what went into the model before what it is made of, and
that before what it computes with. A cause is certain where it explains the very place where the
drift starts and nothing else could; otherwise it is called likely.
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
from pytest_nnsight.diagnose.evidence import Cause, Evidence, first_of
from pytest_nnsight.diagnose.origin import locate
from pytest_nnsight.run import Run

_STRUCTURE = ("missing", "added", "container", "class", "shape", "dtype")
_AS_NOISE = 30.0  # times the tolerance: other arithmetic alone does not go beyond


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Where a drift starts and its cause.

    ``cause`` is one of prompt, tokenizer, settings, positions, mask, intervention, sampling,
    weights, config, structure, code, numerics, or two of them joined by ``and`` or ``or``;
    ``evidence`` is what it is concluded from. ``where`` is the path of a module, ``prompt``
    for all that is asked, or ``generated``. ``parallel`` tells how many modules of that class start
    a drift, as text.
    """

    start: Drift
    where: str
    cause: str
    evidence: str
    is_certain: bool = True
    parallel: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One failed comparison with a golden, for the report.

    ``error`` stands alone where there was nothing to compare; otherwise all the rest is there.
    ``exact`` are true distances, by label, of tensors that were stored whole.
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
    """Say where the failures of ``comparison`` start and what caused them.

    ``golden_weights`` and ``received_weights`` are fingerprints per parameter, where known.
    """
    origin = locate(golden, received, comparison)
    case = Evidence(golden, received, comparison, origin, golden_weights, received_weights)
    cause = next(found for rule in _RULES if (found := rule(case)) is not None)
    parallel = _changed_alike(case) or origin.parallel
    return Diagnosis(
        origin.start, origin.where, cause.name, cause.evidence, cause.is_certain, parallel
    )


def _changed_alike(case: Evidence) -> str:
    """Count the modules of the starting one's class that have other settings, as it has."""
    classes = {call.path: call.module_class for call in case.golden.calls}
    text = model_changes.changed_modules(case.golden, case.received).get(
        classes.get(case.origin.where, ""), ""
    )
    count = text.partition(":")[0]
    return "" if count.startswith("1 of ") else count


def _from_intervention(case: Evidence) -> Cause | None:
    before, now = case.golden.prompt, case.received.prompt
    if before.intervention is None or before.intervention_code == now.intervention_code:
        return None
    differing = (model_changes.changed_config, model_changes.changed_modules)
    if _changed_weights(case)[1] or any(of(case.golden, case.received) for of in differing):
        return None
    return Cause("intervention", f"{before.intervention} was changed", is_certain=False)


def _from_model(case: Evidence) -> Cause | None:
    """Weights or config differ."""
    names, weights = _changed_weights(case)
    config = model_changes.changed_config(case.golden, case.received)
    modules = model_changes.changed_modules(case.golden, case.received)
    own = [name for name in names if _owns(case.origin.where, name)]
    if case.origin.start.kind in _STRUCTURE and not config:
        return None
    told = next((text for name, text in modules.items() if _has_class(case, name)), "")
    if own and config:
        return Cause("config and weights", f"{first_of(config)}; {weights}")
    if own:
        return Cause("weights", weights)
    if config:
        only = not names and not model_changes.changed_versions(case.golden, case.received)
        explained = only or bool(told) or input_causes.is_of_other_rotary(case)
        return Cause("config", first_of(config), is_certain=explained)
    if told:
        return Cause("code", f"same config, but {told}")
    if weights:
        return Cause("weights", weights, is_certain=_is_tied(case, names))
    return None


def _changed_weights(case: Evidence) -> tuple[list[str], str]:
    return model_changes.changed_weights(case.golden, case.received, case.before, case.now)


def _owns(where: str, parameter: str) -> bool:
    return parameter.startswith(f"{where}.")


def _is_tied(case: Evidence, differing: list[str]) -> bool:
    """Tell whether the starting module has no weights of its own name, but an embedding's."""
    if any(_owns(case.origin.where, name) for name in case.now or ()) or not case.origin.is_jump:
        return False
    classes = {call.path: call.module_class for call in case.golden.calls}
    owners = [name.rpartition(".")[0] for name in differing]
    return any("Embedding" in classes.get(owner, "") for owner in owners)


def _has_class(case: Evidence, name: str) -> bool:
    """Tell whether a class is that of the starting module, or of a module inside it."""
    where = case.origin.where
    classes = {
        call.module_class
        for call in case.golden.calls
        if call.path == where or call.path.startswith(f"{where}.")
    }
    return name in classes or where not in case.golden.paths


def _from_structure(case: Evidence) -> Cause | None:
    if case.origin.start.kind not in _STRUCTURE:
        return None
    moved = model_changes.changed_versions(case.golden, case.received)
    weights = _changed_weights(case)[1]
    if case.golden.kind == "scan":
        known = case.comparison.bits.reason or "same config and versions"
    else:
        known = weights or "same weights, config and versions"
    return Cause("structure", moved or known)


def _from_arithmetic(case: Evidence) -> Cause:
    """Weights and config are the same: other code, or other arithmetic.

    Of values of a test's own it is not known what went in, nor how the test makes them.
    """
    is_own = case.golden.kind == "tensors"
    moved = model_changes.changed_versions(case.golden, case.received)
    arithmetic = case.comparison.bits.reason
    largest = max((drift.rel for drift in case.comparison.failures), default=0.0)
    small = largest <= _AS_NOISE * max(case.comparison.tolerance.rel, 1e-9)
    known = "weights" if is_own else "inputs, weights"
    same = f"same {known} and config"
    if arithmetic and small:
        return Cause("numerics", arithmetic, is_certain=not case.origin.is_jump)
    if moved:
        return Cause("code", f"{same}; {moved}", is_certain=not arithmetic and not is_own)
    if arithmetic:
        return Cause("code or numerics", f"{same}; {arithmetic}", is_certain=False)
    what = f"{'the test, ' if is_own else ''}a patched module, a hook or an edit"
    return Cause("code", f"same {known}, config and versions: {what}", is_certain=not is_own)


_RULES: tuple[Callable[[Evidence], Cause | None], ...] = (
    input_causes.from_request,
    input_causes.from_token_divergence,
    input_causes.from_changed_tensors,
    input_causes.from_model_inputs,
    _from_intervention,
    _from_model,
    _from_structure,
    _from_arithmetic,
)
