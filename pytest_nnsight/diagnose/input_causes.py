"""Rules for causes in the inputs: prompt, tokenizer, settings, tensors, a generated token."""

from __future__ import annotations

from pytest_nnsight.compare import model_changes
from pytest_nnsight.diagnose.evidence import Cause, Evidence, join_first
from pytest_nnsight.diagnose.origin import GENERATED


def from_request(evidence: Evidence) -> Cause | None:
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
        return Cause("config", join_first(keys), is_certain=is_text)
    if not is_text:
        return Cause("prompt", changed)
    return Cause("code", _with_versions(changed, evidence), is_certain=False)


def _changed_first_ids(evidence: Evidence, name: str) -> tuple[int, int] | None:
    """Return the first ids of both runs if nothing else differs and all prompts agree in them."""
    golden = evidence.golden.prompt.tensors.get(name, ())
    received = evidence.received.prompt.tensors.get(name, ())
    pairs = {(old[:1], new[:1]) for old, new in zip(golden, received, strict=False)}
    if len(pairs) != 1 or [ids[1:] for ids in golden] != [ids[1:] for ids in received]:
        return None
    ((old, new),) = pairs
    return (old[0], new[0]) if old and new else None


def from_token_divergence(evidence: Evidence) -> Cause | None:
    """Explain another generated token after calls that all agree."""
    divergence = evidence.comparison.divergence
    if evidence.origin.where != GENERATED or divergence is None:
        return None
    if divergence.is_near_tie:
        return Cause("sampling", divergence.closeness)
    if settings := model_changes.changed_generation(evidence.golden, evidence.received):
        return Cause("config", join_first(settings))
    if evidence.golden.prompt.generation.get("do_sample"):
        return Cause("sampling", f"{divergence.tokens}, drawn at random", is_certain=False)
    changed = f"{divergence.tokens}, though the logits agree: the token is selected differently"
    return Cause("code", changed, is_certain=False)


def from_changed_tensors(evidence: Evidence) -> Cause | None:
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


def from_model_inputs(evidence: Evidence) -> Cause | None:
    """Blame positions or a mask that were wrong before a module computed with them."""
    if evidence.origin.mask_change:
        return Cause("mask", evidence.origin.mask_change)
    value = evidence.origin.value
    if value is None or not value.leaf.at.startswith("in"):
        return None
    is_integer = not value.leaf.summary.sketch  # positions, or a mask of zeros and ones
    kind = _input_kind(value.leaf.at + (value.call.path if is_integer else ""))
    if kind is None or (kind == "positions" and starts_at_changed_rotary(evidence)):
        return None
    name = value.leaf.at.removeprefix("in.")
    argument = f"input {name}" if name.isdigit() else name  # a positional argument has no name
    return Cause(kind, _with_versions(f"{value.call.path} is given another {argument}", evidence))


def _with_versions(text: str, evidence: Evidence) -> str:
    return f"{text}; {evidence.versions}" if evidence.versions else text


def starts_at_changed_rotary(evidence: Evidence) -> bool:
    """Tell whether a drift starts in the cosines and sines of a rotary embedding that changed."""
    value = evidence.origin.value
    if value is not None and not value.leaf.summary.sketch:  # positions, not a table
        return False
    names = (evidence.origin.where, value.leaf.at if value is not None else "")
    keys = [text.partition(" ")[0] for text in evidence.config]
    return any("rotary" in name or "position_embeddings" in name for name in names) and any(
        "rotary" in key or "rope_" in key for key in keys
    )


def _input_kind(name: str) -> str | None:
    """Return ``mask`` or ``positions`` by the name of an input and of the module it enters."""
    if "mask" in name:
        return "mask"
    words = ("position", "rotary", "wpe")
    return "positions" if any(word in name for word in words) else None
