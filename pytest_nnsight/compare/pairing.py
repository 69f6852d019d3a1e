"""Two calls of one module -> pairs of tensors, and whether their containers differ."""

from __future__ import annotations

import re

from pytest_nnsight.run import Call, Leaf

Pairs = list[tuple[Leaf, Leaf]]


def pair(golden: Call, received: Call, may_lose: bool) -> tuple[Pairs, str | None]:
    """Pair the tensors of two calls; return the pairs and ``note`` or ``fail`` for the container.

    Outputs pair by location if both calls have the same locations, otherwise in order: a tensor can
    be compared with a tuple that holds one. An output that was ``None`` in the golden and is a
    tensor now (eager attention returns its weights) is a note; so is the reverse if the call
    ``may_lose`` tensors, as under another attention implementation. Inputs pair by location only.
    """
    if golden.output == received.output and _locations(golden) == _locations(received):
        return list(zip(golden.leaves, received.leaves, strict=True)), None
    others = {leaf.at: leaf for leaf in received.leaves}
    same_location = [(leaf, others[leaf.at]) for leaf in golden.leaves if leaf.at in others]
    inputs = [(old, new) for old, new in same_location if is_input(old)]
    old = [leaf for leaf in golden.leaves if not is_input(leaf)]
    new = [leaf for leaf in received.leaves if not is_input(leaf)]
    if golden.output == received.output:
        return inputs + list(zip(old, new, strict=False)), None
    outputs = [(old, new) for old, new in same_location if not is_input(old)]
    if len(outputs) == len(old):
        is_note = _is_filled(golden.output, received.output)
        return inputs + outputs, "note" if is_note else "fail"
    if may_lose and _is_filled(received.output, golden.output):
        return inputs + outputs, "note"
    return inputs + list(zip(old, new, strict=False)), "fail"


def is_input(leaf: Leaf) -> bool:
    """Tell whether a tensor is an input of its call, not an output."""
    return leaf.at == "in" or leaf.at.startswith(("in.", "in["))


def _locations(call: Call) -> list[str]:
    return [leaf.at for leaf in call.leaves]


def _is_filled(before: str, now: str) -> bool:
    """Tell whether the container ``now`` is ``before`` with some ``None`` replaced by tensors."""
    pattern = "(None|tensor)".join(map(re.escape, before.split("None")))
    return re.fullmatch(pattern, now) is not None
