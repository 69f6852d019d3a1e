"""Drifts -> where they start and why. Neither torch nor pytest is needed.

The causes are tried from the outside in: what went into the model before what it is made of, and
that before what it computes with. A cause is certain where it explains the very place where the
drift starts and nothing else could; otherwise it is called likely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_nnsight.compare import evidence
from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.compare.evidence import Fingerprints
from pytest_nnsight.diagnose.location import GENERATED, Origin, locate
from pytest_nnsight.run import Run

_STRUCTURE = ("missing", "added", "container", "class", "shape", "dtype")
_AS_NOISE = 30.0  # times the tolerance: other arithmetic alone does not go beyond


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a drift is there, what that is concluded from, and whether it is beyond doubt."""

    name: str
    evidence: str
    is_certain: bool = True


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


@dataclass(frozen=True, slots=True)
class Case:
    """All there is to judge by."""

    golden: Run
    received: Run
    comparison: Comparison
    origin: Origin
    before: Fingerprints | None
    now: Fingerprints | None


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
    case = Case(golden, received, comparison, origin, golden_weights, received_weights)
    cause = next(found for rule in _RULES if (found := rule(case)) is not None)
    parallel = _changed_alike(case) or origin.parallel
    return Diagnosis(
        origin.start, origin.where, cause.name, cause.evidence, cause.is_certain, parallel
    )


def _changed_alike(case: Case) -> str:
    """Count the modules of the starting one's class that have other settings, as it has."""
    classes = {call.path: call.module_class for call in case.golden.calls}
    text = evidence.changed_modules(case.golden, case.received).get(
        classes.get(case.origin.where, ""), ""
    )
    count = text.partition(":")[0]
    return "" if count.startswith("1 of ") else count


def _from_request(case: Case) -> Cause | None:
    """The test asks for something else than the golden's, or the tokenizer reads it otherwise."""
    start, golden, received = case.origin.start, case.golden, case.received
    if start.kind not in ("ids", "settings", "kind", "tensors") or start.label == GENERATED:
        return None
    if start.kind in ("settings", "kind"):
        return Cause("settings", "the test asks for something else than the golden's")
    if start.kind == "tensors":
        return Cause(
            _kind_of_tensor(start.label) or "prompt", f"the model is given other {start.label}"
        )
    if golden.prompt.text is None or golden.prompt.text != received.prompt.text:
        return Cause("prompt", "the test asks for another prompt than the golden's")
    if isinstance(golden.prompt.text, list) and isinstance(golden.prompt.text[0], dict):
        return Cause("tokenizer", "the same messages give other token ids: the chat template?")
    return Cause("tokenizer", "the same text gives other token ids")


def _from_choice(case: Case) -> Cause | None:
    """Every call agrees up to a token that was chosen otherwise."""
    flip = case.comparison.flip
    if case.origin.where != GENERATED or flip is None:
        return None
    settings = evidence.changed_generation(case.golden, case.received)
    if flip.is_near_tie:
        return Cause("sampling", flip.closeness)
    if settings:
        return Cause("config", _first(settings))
    if case.golden.prompt.generation.get("do_sample"):
        return Cause("sampling", f"{flip.tokens}, drawn at random", is_certain=False)
    return Cause(
        "code", f"{flip.tokens}, though the logits agree: what chooses the token", is_certain=False
    )


def _from_numbers_given(case: Case) -> Cause | None:
    """Another picture, sound or embedding: numbers, which may differ by what is allowed."""
    before, now = case.golden.prompt.digests, case.received.prompt.digests
    others = [name for name in before if before[name] != now.get(name, before[name])]
    value = case.origin.value
    if value is None or not others or not (value.enters or not value.fed_by):
        return None
    is_certain = value.enters  # the first value of a part of the model may be its own doing
    return Cause("prompt", f"the model is given other {', '.join(others)}", is_certain)


def _from_model_inputs(case: Case) -> Cause | None:
    """Positions or a mask were wrong before any module computed with them."""
    if case.origin.given:
        return Cause("mask", case.origin.given)
    value = case.origin.value
    if value is None or not value.leaf.at.startswith("in"):
        return None
    is_whole = not value.leaf.summary.sketch  # numbers that name places, or say which are hidden
    kind = _kind_of_tensor(value.leaf.at + (value.call.path if is_whole else ""))
    if kind is None or (kind == "positions" and _is_of_other_rotary(case)):
        return None
    moved = evidence.changed_versions(case.golden, case.received)
    name = value.leaf.at.removeprefix("in.")
    other = f"input {name}" if name.isdigit() else name  # what `forward` takes without a name
    text = f"{value.call.path} is given another {other}"
    return Cause(kind, f"{text}; {moved}" if moved else text)


def _is_of_other_rotary(case: Case) -> bool:
    """Tell whether the drift starts with the tables of a rotary embedding that has other settings.

    They are numbers, and made from positions, which are whole.
    """
    value = case.origin.value
    names = (case.origin.where, value.leaf.at if value is not None else "")
    is_table = any("rotary" in name or "position_embeddings" in name for name in names)
    changed = evidence.changed_config(case.golden, case.received)
    is_whole = value is not None and not value.leaf.summary.sketch
    return is_table and not is_whole and any(map(evidence.is_rotary, changed))


def _kind_of_tensor(name: str) -> str | None:
    """Tell positions from masks by the name of an input and of the module that it enters."""
    if "mask" in name:
        return "mask"
    words = ("position", "rotary", "wpe")
    return "positions" if any(word in name for word in words) else None


def _from_intervention(case: Case) -> Cause | None:
    before, now = case.golden.prompt, case.received.prompt
    if before.intervention is None or before.intervention_code == now.intervention_code:
        return None
    differing = (evidence.changed_config, evidence.changed_modules)
    if _changed_weights(case)[1] or any(of(case.golden, case.received) for of in differing):
        return None
    return Cause("intervention", f"{before.intervention} was changed", is_certain=False)


def _from_model(case: Case) -> Cause | None:
    """Weights or config differ."""
    names, weights = _changed_weights(case)
    config = evidence.changed_config(case.golden, case.received)
    modules = evidence.changed_modules(case.golden, case.received)
    own = [name for name in names if _owns(case.origin.where, name)]
    if case.origin.start.kind in _STRUCTURE and not config:
        return None
    told = next((text for name, text in modules.items() if _has_class(case, name)), "")
    if own and config:
        return Cause("config and weights", f"{_first(config)}; {weights}")
    if own:
        return Cause("weights", weights)
    if config:
        only = not names and not evidence.changed_versions(case.golden, case.received)
        explained = only or bool(told) or _is_of_other_rotary(case)
        return Cause("config", _first(config), is_certain=explained)
    if told:
        return Cause("code", f"same config, but {told}")
    if weights:
        return Cause("weights", weights, is_certain=_is_tied(case, names))
    return None


def _changed_weights(case: Case) -> tuple[list[str], str]:
    return evidence.changed_weights(case.golden, case.received, case.before, case.now)


def _owns(where: str, parameter: str) -> bool:
    return parameter.startswith(f"{where}.")


def _is_tied(case: Case, differing: list[str]) -> bool:
    """Tell whether the starting module has no weights of its own name, but an embedding's."""
    if any(_owns(case.origin.where, name) for name in case.now or ()) or not case.origin.is_jump:
        return False
    classes = {call.path: call.module_class for call in case.golden.calls}
    owners = [name.rpartition(".")[0] for name in differing]
    return any("Embedding" in classes.get(owner, "") for owner in owners)


def _has_class(case: Case, name: str) -> bool:
    """Tell whether a class is that of the starting module, or of a module inside it."""
    where = case.origin.where
    classes = {
        call.module_class
        for call in case.golden.calls
        if call.path == where or call.path.startswith(f"{where}.")
    }
    return name in classes or where not in case.golden.paths


def _from_structure(case: Case) -> Cause | None:
    if case.origin.start.kind not in _STRUCTURE:
        return None
    moved = evidence.changed_versions(case.golden, case.received)
    weights = _changed_weights(case)[1]
    if case.golden.kind == "scan":
        known = case.comparison.bits.reason or "same config and versions"
    else:
        known = weights or "same weights, config and versions"
    return Cause("structure", moved or known)


def _from_arithmetic(case: Case) -> Cause:
    """Weights and config are the same: other code, or other arithmetic.

    Of values of a test's own it is not known what went in, nor how the test makes them.
    """
    is_own = case.golden.kind == "tensors"
    moved = evidence.changed_versions(case.golden, case.received)
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


def _first(changes: list[str], count: int = 3) -> str:
    return "; ".join(changes[:count]) + (" ..." if len(changes) > count else "")


_RULES: tuple[Callable[[Case], Cause | None], ...] = (
    _from_request,
    _from_choice,
    _from_numbers_given,
    _from_model_inputs,
    _from_intervention,
    _from_model,
    _from_structure,
    _from_arithmetic,
)
