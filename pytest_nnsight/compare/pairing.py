"""Call x call -> which tensors are to be compared, and whether their containers differ."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_nnsight.run import Call, Leaf

Pairs = list[tuple[Leaf, Leaf]]


def pair(golden: Call, received: Call, may_lose: bool) -> tuple[Pairs, str | None]:
    """Pair the tensors of two calls; say whether their containers differ: ``note`` or ``fail``.

    Tensors pair by place where the containers agree, else in order: a 1-tuple against a tensor
    hides no value. An output that was ``None`` in the golden and is a tensor now (eager attention
    returns its weights) is a note, and the reverse where an output ``may_lose`` its tensors, as
    under another attention. Inputs pair by place alone.
    """
    if golden.output == received.output and _have_equal_places(golden.leaves, received.leaves):
        return list(zip(golden.leaves, received.leaves, strict=True)), None
    places = {leaf.at: leaf for leaf in received.leaves}
    entering = [
        (leaf, places[leaf.at]) for leaf in golden.leaves if is_input(leaf) and leaf.at in places
    ]
    old = [leaf for leaf in golden.leaves if not is_input(leaf)]
    new = [leaf for leaf in received.leaves if not is_input(leaf)]
    if golden.output == received.output:
        return entering + list(zip(old, new, strict=False)), None
    if all(leaf.at in places for leaf in old):
        only_added = _only_filled(golden.output, received.output)
        pairs = [(leaf, places[leaf.at]) for leaf in old]
        return entering + pairs, "note" if only_added else "fail"
    if may_lose and _only_filled(received.output, golden.output):
        return entering + [(leaf, places[leaf.at]) for leaf in old if leaf.at in places], "note"
    return entering + list(zip(old, new, strict=False)), "fail"


def _have_equal_places(golden: Sequence[Leaf], received: Sequence[Leaf]) -> bool:
    return [leaf.at for leaf in golden] == [leaf.at for leaf in received]


def is_input(leaf: Leaf) -> bool:
    """Tell what enters a call from what leaves it."""
    return leaf.at == "in" or leaf.at.startswith(("in.", "in["))


def _only_filled(before: str, now: str) -> bool:
    """Tell whether ``now`` is ``before`` with some ``None`` replaced by tensors."""
    old, new = before.split("None"), now
    for index, piece in enumerate(old):
        if not new.startswith(piece):
            return False
        new = new[len(piece) :]
        if index < len(old) - 1:
            filled = next((word for word in ("None", "tensor") if new.startswith(word)), None)
            if filled is None:
                return False
            new = new[len(filled) :]
    return new == ""
