"""The causes that lie in what a run was given: prompt, settings, numbers, a chosen token."""

from __future__ import annotations

from pytest_nnsight.compare import model_changes
from pytest_nnsight.diagnose.evidence import Cause, Evidence, first_of
from pytest_nnsight.diagnose.origin import GENERATED


def from_request(case: Evidence) -> Cause | None:
    """The test asks for something else than the golden's, or the tokenizer reads it otherwise."""
    start, golden, received = case.origin.start, case.golden, case.received
    if start.kind not in ("ids", "settings", "kind", "tensors") or start.label == GENERATED:
        return None
    if start.kind in ("settings", "kind"):
        return Cause("settings", "the test asks for something else than the golden's")
    if start.kind == "tensors":
        return _from_tensor(case, start.label)
    if golden.prompt.text is None or golden.prompt.text != received.prompt.text:
        return Cause("prompt", "the test asks for another prompt than the golden's")
    if isinstance(golden.prompt.text, list) and isinstance(golden.prompt.text[0], dict):
        return Cause("tokenizer", "the same messages give other token ids: the chat template?")
    return Cause("tokenizer", "the same text gives other token ids")


def _from_tensor(case: Evidence, name: str) -> Cause:
    """Another mask, other positions or other ids of a decoder, for the same token ids.

    What the test asks for is the prompt. What a library makes of the same text is not, nor is the
    start of a decoder that comes from a config.
    """
    text, other = case.golden.prompt.text, f"the model is given other {name}"
    if kind := _kind_of_tensor(name):
        return Cause(kind, other)
    is_of_text = text is not None and text == case.received.prompt.text
    if not name.startswith("decoder_"):
        same_text = f"the same text gives other {name}"
        return Cause("tokenizer", same_text) if is_of_text else Cause("prompt", other)
    first = _other_first_ids(case, name)
    changes = model_changes.changed_start_token(case.golden, case.received, first) if first else []
    if changes:
        return Cause("config", first_of(changes), is_certain=is_of_text)
    if not is_of_text:
        return Cause("prompt", other)
    moved = model_changes.changed_versions(case.golden, case.received)
    return Cause("code", f"{other}; {moved}" if moved else other, is_certain=False)


def _other_first_ids(case: Evidence, name: str) -> tuple[int, int] | None:
    """Return the first ids of both runs where all rows differ in these alone."""
    before = case.golden.prompt.tensors.get(name, ())
    now = case.received.prompt.tensors.get(name, ())
    pairs = {(old[:1], new[:1]) for old, new in zip(before, now, strict=False)}
    if (
        len(before) != len(now)
        or len(pairs) != 1
        or [r[1:] for r in before] != [r[1:] for r in now]
    ):
        return None
    ((old, new),) = pairs
    return (old[0], new[0]) if old and new else None


def from_token_divergence(case: Evidence) -> Cause | None:
    """Every call agrees up to a token that was chosen otherwise."""
    divergence = case.comparison.divergence
    if case.origin.where != GENERATED or divergence is None:
        return None
    settings = model_changes.changed_generation(case.golden, case.received)
    if divergence.is_near_tie:
        return Cause("sampling", divergence.closeness)
    if settings:
        return Cause("config", first_of(settings))
    if case.golden.prompt.generation.get("do_sample"):
        return Cause("sampling", f"{divergence.tokens}, drawn at random", is_certain=False)
    return Cause(
        "code",
        f"{divergence.tokens}, though the logits agree: what chooses the token",
        is_certain=False,
    )


def from_changed_tensors(case: Evidence) -> Cause | None:
    """Another picture, sound or embedding: numbers, which may differ by what is allowed."""
    before, now = case.golden.prompt.digests, case.received.prompt.digests
    others = [name for name in before if before[name] != now.get(name, before[name])]
    value = case.origin.value
    if value is None or not others or not (value.is_model_input or not value.fed_by):
        return None
    is_certain = value.is_model_input  # the first value of a part of the model may be its own doing
    return Cause("prompt", f"the model is given other {', '.join(others)}", is_certain)


def from_model_inputs(case: Evidence) -> Cause | None:
    """Positions or a mask were wrong before any module computed with them."""
    if case.origin.given:
        return Cause("mask", case.origin.given)
    value = case.origin.value
    if value is None or not value.leaf.at.startswith("in"):
        return None
    is_whole = not value.leaf.summary.sketch  # numbers that name places, or say which are hidden
    kind = _kind_of_tensor(value.leaf.at + (value.call.path if is_whole else ""))
    if kind is None or (kind == "positions" and is_of_other_rotary(case)):
        return None
    moved = model_changes.changed_versions(case.golden, case.received)
    name = value.leaf.at.removeprefix("in.")
    other = f"input {name}" if name.isdigit() else name  # what `forward` takes without a name
    text = f"{value.call.path} is given another {other}"
    return Cause(kind, f"{text}; {moved}" if moved else text)


def is_of_other_rotary(case: Evidence) -> bool:
    """Tell whether the drift starts with the tables of a rotary embedding that has other settings.

    They are numbers, and made from positions, which are whole.
    """
    value = case.origin.value
    names = (case.origin.where, value.leaf.at if value is not None else "")
    is_table = any("rotary" in name or "position_embeddings" in name for name in names)
    changed = model_changes.changed_config(case.golden, case.received)
    is_whole = value is not None and not value.leaf.summary.sketch
    return is_table and not is_whole and any(map(model_changes.is_rotary, changed))


def _kind_of_tensor(name: str) -> str | None:
    """Tell positions from masks by the name of an input and of the module that it enters."""
    if "mask" in name:
        return "mask"
    words = ("position", "rotary", "wpe")
    return "positions" if any(word in name for word in words) else None
