"""Rules that name the cause of a drift, in the order of the data flow.

First come the inputs of the model, then its weights, config and structure, then the code. A cause
is certain where it explains the very call where the drift starts and nothing else could.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pytest_nnsight.compare import model_changes
from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.diagnose.origin import GENERATED, DriftOrigin
from pytest_nnsight.run import Run

_STRUCTURE_KINDS = ("missing", "added", "container", "fewer tensors", "class", "shape", "dtype")
_LARGEST_NOISE = 30.0  # times the tolerance: other arithmetic alone causes no larger drift


class Cause(NamedTuple):
    """Name the cause of a drift; ``evidence`` is the text that supports it."""

    name: str
    evidence: str
    is_certain: bool = True


@dataclass(frozen=True, slots=True)
class Evidence:
    """Hold everything that a rule may judge by.

    ``classes`` has the class of each module, ``parameters`` the names of the received parameters.
    The last four fields say what differs, see `model_changes`.
    """

    golden: Run
    received: Run
    comparison: Comparison
    origin: DriftOrigin
    classes: Mapping[str, str]
    parameters: Iterable[str]
    weights: tuple[list[str], str]
    config: list[str]
    modules: Mapping[str, str]
    versions: str


def _join_first(changes: list[str]) -> str:
    """Join the first three changes that are not empty; ``...`` stands for the others."""
    texts = [text for text in changes if text]
    return "; ".join(texts[:3]) + (" ..." if len(texts) > 3 else "")


def _from_request(evidence: Evidence) -> Cause | None:
    """Blame the test, which asks for something else, or the tokenizer."""
    start, golden, received = evidence.origin.start, evidence.golden, evidence.received
    if start.kind not in ("ids", "settings", "kind", "tensors") or start.label == GENERATED:
        return None
    if start.kind == "kind":
        return Cause("settings", "the test makes another kind of run than the golden's")
    if start.kind == "settings":
        return Cause("settings", "the test asks for other settings than the golden's")
    if start.kind == "tensors":
        return _from_input_tensor(evidence, start.label)
    text = golden.prompt.text
    if text is None or text != received.prompt.text:
        return Cause("prompt", "the test asks for another prompt than the golden's")
    if isinstance(text, list) and isinstance(text[0], dict):
        return Cause("tokenizer", "the same messages give other token ids: another chat template?")
    return Cause("tokenizer", "the same text gives other token ids")


def _from_input_tensor(evidence: Evidence, name: str) -> Cause:
    """Return the cause of another mask, other positions or other ids of a decoder.

    Where a test gives text, the tokenizer makes the other tensors, and the config the first ids of
    a decoder. Where a test gives tensors, they are its prompt.
    """
    golden, received = evidence.golden, evidence.received
    changed = f"the model is given other {name}"
    if kind := _input_kind(name):
        return Cause(kind, changed)
    is_text = golden.prompt.text is not None and golden.prompt.text == received.prompt.text
    if not name.startswith("decoder_"):
        same_text = f"the same text gives other {name}"
        return Cause("tokenizer", same_text) if is_text else Cause("prompt", changed)
    first_ids = _changed_first_ids(evidence, name)
    if first_ids and (keys := model_changes.changed_start_token(golden, received, first_ids)):
        return Cause("config", _join_first(keys), is_certain=is_text)
    if not is_text:
        return Cause("prompt", changed)
    return Cause("code", _join_first([changed, evidence.versions]), is_certain=False)


def _changed_first_ids(evidence: Evidence, name: str) -> tuple[int, int] | None:
    """Return the first ids of both runs if nothing else differs and all prompts agree in them."""
    golden = evidence.golden.prompt.tensors.get(name, ())
    received = evidence.received.prompt.tensors.get(name, ())
    pairs = {(old[:1], new[:1]) for old, new in zip(golden, received, strict=False)}
    if len(pairs) != 1 or [ids[1:] for ids in golden] != [ids[1:] for ids in received]:
        return None
    old, new = pairs.pop()
    return (old[0], new[0]) if old and new else None


def _from_token_divergence(evidence: Evidence) -> Cause | None:
    """Explain another generated token after calls that all agree."""
    divergence = evidence.comparison.divergence
    if evidence.origin.where != GENERATED or divergence is None:
        return None
    if divergence.is_near_tie:
        return Cause("sampling", divergence.closeness)
    if settings := model_changes.changed_generation(evidence.golden, evidence.received):
        return Cause("config", _join_first(settings))
    if evidence.golden.prompt.generation.get("do_sample"):
        return Cause("sampling", f"{divergence.tokens}, drawn at random", is_certain=False)
    changed = f"{divergence.tokens}, though the logits agree: the token is selected differently"
    return Cause("code", changed, is_certain=False)


def _from_changed_tensors(evidence: Evidence) -> Cause | None:
    """Blame another picture, sound or embedding of the test.

    Such floats may differ within the tolerance, so that another digest alone proves nothing.
    """
    golden, received = evidence.golden.prompt.digests, evidence.received.prompt.digests
    names = [name for name in golden if golden[name] != received.get(name, golden[name])]
    value = evidence.origin.value
    if value is None or not names or not (value.is_model_input or not value.fed_by):
        return None
    changed = f"the model is given other {', '.join(names)}"
    # The first value of a module may also be wrong by its own code.
    return Cause("prompt", changed, is_certain=value.is_model_input)


def _from_model_inputs(evidence: Evidence) -> Cause | None:
    """Blame positions or a mask that were wrong before a module computed with them."""
    if evidence.origin.mask_change:
        return Cause("mask", evidence.origin.mask_change)
    value = evidence.origin.value
    if value is None or not value.leaf.at.startswith("in"):
        return None
    is_integer = not value.leaf.summary.sketch  # positions, or a mask of zeros and ones
    kind = _input_kind(value.leaf.at + (value.call.path if is_integer else ""))
    if kind is None or (kind == "positions" and _starts_at_changed_rotary(evidence)):
        return None
    name = value.leaf.at.removeprefix("in.")
    argument = f"input {name}" if name.isdigit() else name  # a positional argument has no name
    changed = f"{value.call.path} is given another {argument}"
    return Cause(kind, _join_first([changed, evidence.versions]))


def _starts_at_changed_rotary(evidence: Evidence) -> bool:
    """Tell whether a drift starts in the cosines and sines of a rotary embedding that changed."""
    value = evidence.origin.value
    if value is not None and not value.leaf.summary.sketch:  # positions, not a table
        return False
    names = f"{evidence.origin.where} {value.leaf.at if value is not None else ''}"
    keys = " ".join(text.partition(" ")[0] for text in evidence.config)
    is_table = "rotary" in names or "position_embeddings" in names
    return is_table and ("rotary" in keys or "rope_" in keys)


def _input_kind(name: str) -> str | None:
    """Return ``mask`` or ``positions`` by the name of an input and of the module it enters."""
    if "mask" in name:
        return "mask"
    words = ("position", "rotary", "wpe")
    return "positions" if any(word in name for word in words) else None


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
    where, classes = evidence.origin.where, evidence.classes
    if evidence.origin.start.kind in _STRUCTURE_KINDS and not config:
        return None
    if any(name.startswith(f"{where}.") for name in names):
        if config:
            return Cause("config and weights", f"{_join_first(config)}; {weights}")
        return Cause("weights", weights)
    inside = {kind for path, kind in classes.items() if f"{path}.".startswith(f"{where}.")}
    names_inside = [name for name in evidence.modules if name in inside or where not in classes]
    built = evidence.modules[names_inside[0]] if names_inside else ""
    if config:
        is_only_change = not names and not evidence.versions
        is_rotary = _starts_at_changed_rotary(evidence)
        return Cause("config", _join_first(config), is_only_change or bool(built) or is_rotary)
    if built:
        return Cause("code", f"same config, but {built}")
    if weights:
        return Cause("weights", weights, is_certain=_is_tied(evidence, names))
    return None


def _is_tied(evidence: Evidence, changed: list[str]) -> bool:
    """Tell whether the starting module has no parameter, but a changed embedding to share."""
    origin, names = evidence.origin, evidence.parameters
    if any(name.startswith(f"{origin.where}.") for name in names) or not origin.is_jump:
        return False
    owners = [evidence.classes.get(name.rpartition(".")[0], "") for name in changed]
    return any("Embedding" in owner for owner in owners)


def _from_structure(evidence: Evidence) -> Cause | None:
    """Name what changed next to another structure: versions, else weights, else nothing."""
    if evidence.origin.start.kind not in _STRUCTURE_KINDS:
        return None
    if evidence.golden.kind == "scan":
        found = evidence.comparison.bits.reason or "same config and versions"
    else:
        found = evidence.weights[1] or "same weights, config and versions"
    return Cause("structure", evidence.versions or found)


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
        return Cause("code", f"{same} and config; {versions}", not arithmetic and not is_own)
    if arithmetic:
        return Cause("code or numerics", f"{same} and config; {arithmetic}", is_certain=False)
    suspects = f"{'the test, ' if is_own else ''}a patched module, a hook or an edit"
    return Cause("code", f"{same}, config and versions: {suspects}", is_certain=not is_own)


# The first rule that returns a cause decides; the last one always does.
RULES: tuple[Callable[[Evidence], Cause | None], ...] = (
    _from_request,
    _from_token_divergence,
    _from_changed_tensors,
    _from_model_inputs,
    _from_intervention,
    _from_model,
    _from_structure,
    _from_code_or_numerics,
)
