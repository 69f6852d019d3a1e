"""Two calls of one module -> pairs of tensors, and whether their containers differ."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from pytest_nnsight.run import Call, Leaf

Pairs = list[tuple[Leaf, Leaf]]
_Tree = list[tuple[list[str], Leaf]]  # tensors, each with the steps that lead to it
_STEP = re.compile(r"\.[^.\[]+|\[\d+\]")


def pair(golden: Call, received: Call, may_lose: bool) -> tuple[Pairs, str | None]:
    """Pair the tensors of two calls; return the pairs, and how serious another container is.

    That is ``note``, ``fail``, or ``lost`` if a tensor of the golden has no partner; ``None`` for
    the same container. Outputs with other names pair in order within their container, and a tensor
    pairs with a tuple that holds one. An output that was ``None`` in the golden and is a tensor now
    (eager attention returns its weights) is a note; so is the reverse if the call ``may_lose``
    tensors, as under another attention implementation. Inputs pair by location only.
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
    trees = ([(_STEP.findall(leaf.at), leaf) for leaf in side] for side in (old, new))
    outputs = max(_align(*trees), list(zip(old, new, strict=False)), key=len)
    return inputs + outputs, "fail" if len(outputs) == len(old) else "lost"


def _align(old: _Tree, new: _Tree) -> Pairs:
    """Pair tensors whose locations begin with the same step, and renamed steps in order.

    Items of tuples pair in order if there are as many: a ``None`` may have been put before them.
    """
    if not old or not new:
        return []
    if not old[0][0] or not new[0][0]:
        return [(old[0][1], new[0][1])]
    before, now = _by_first_step(old), _by_first_step(new)
    if len(before) == len(now) and not any(step.startswith(".") for step in before):
        partners = dict(zip(before, now, strict=True))
    else:
        names, partners = ([*before], [*now]), {}
        for change, i, j, k, end in SequenceMatcher(None, *names, autojunk=False).get_opcodes():
            if change == "replace":
                partners |= zip(names[0][i:j], names[1][k:end], strict=False)
        partners |= {step: step for step in before if step in now}
    both = [(before[step], now[partners[step]]) for step in before if step in partners]
    return [pair for parts in both for pair in _align(*parts)]


def _by_first_step(tree: _Tree) -> dict[str, _Tree]:
    parts: dict[str, _Tree] = {}
    for (first, *rest), leaf in tree:
        parts.setdefault(first, []).append((rest, leaf))
    return parts


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
