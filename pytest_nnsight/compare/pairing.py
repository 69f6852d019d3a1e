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
    locations = [[leaf.at for leaf in call.leaves] for call in (golden, received)]
    if golden.output == received.output and locations[0] == locations[1]:
        return list(zip(golden.leaves, received.leaves, strict=True)), None
    others = {leaf.at: leaf for leaf in received.leaves}
    (entered, old), (_, new) = inputs_and_outputs(golden), inputs_and_outputs(received)
    inputs = [(leaf, others[leaf.at]) for leaf in entered if leaf.at in others]
    if golden.output == received.output:
        return inputs + list(zip(old, new, strict=False)), None
    outputs = [(leaf, others[leaf.at]) for leaf in old if leaf.at in others]
    if len(outputs) == len(old):
        is_note = _is_filled(golden.output, received.output)
        return inputs + outputs, "note" if is_note else "fail"
    if may_lose and _is_filled(received.output, golden.output):
        return inputs + outputs, "note"
    return inputs + list(zip(old, new, strict=False)), "fail"


def is_input(leaf: Leaf) -> bool:
    """Tell whether a tensor is an input of its call, not an output."""
    return leaf.at == "in" or leaf.at.startswith(("in.", "in["))


def inputs_and_outputs(call: Call) -> tuple[list[Leaf], list[Leaf]]:
    """Return the tensors that entered a call, and those that it returned."""
    inputs = [leaf for leaf in call.leaves if is_input(leaf)]
    return inputs, [leaf for leaf in call.leaves if not is_input(leaf)]


def _is_filled(before: str, now: str) -> bool:
    """Tell whether the container ``now`` is ``before`` with some ``None`` replaced by tensors."""
    pattern = "(None|tensor)".join(map(re.escape, before.split("None")))
    return re.fullmatch(pattern, now) is not None
