"""One difference of two runs; all differences in their calls, containers, shapes and dtypes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pytest_nnsight.compare.distance import SAME, Distance
from pytest_nnsight.compare.pairing import is_input, pair
from pytest_nnsight.compare.timeline import LeafKey
from pytest_nnsight.run import Call, Leaf, Run

_LITERAL = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|(?<!\w)-?\d+|\bTrue\b|\bFalse\b")
Pairs = dict[LeafKey, tuple[Leaf, Leaf]]
"""Tensors of golden and received, by the location in the golden."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference between golden and received.

    ``kind`` is ``values``, ``container``, ``fewer tensors``, ``shape``, ``dtype``, ``class``,
    ``order``, ``missing``, ``added``, ``ids``, ``tensors``, ``settings`` or ``kind``; ``mask`` and
    ``padding`` are notes. ``position`` is the index of the golden's call and ``path`` its module.
    For ``values``, ``distance`` is the size and ``allowed`` the limit. A ``note`` is shown and does
    not fail.
    """

    kind: str
    label: str
    path: str = ""
    distance: Distance = SAME
    allowed: float = 0.0
    expected: str = ""
    received: str = ""
    note: bool = False
    position: int = -1

    @property
    def is_structural(self) -> bool:
        """Whether only a class or a container differs, not the numbers and texts inside it."""
        before, now = (_LITERAL.findall(text) for text in (self.expected, self.received))
        return self.kind == "class" or (self.kind == "container" and before == now)

    @property
    def rel(self) -> float:
        """The relative size: over all tokens, or of one token if only that is too large."""
        distance = self.distance
        if distance.rms > self.allowed:
            return distance.rms
        return distance.pooled if distance.pooled > self.allowed else distance.worst


def leaf_label(call: Call, leaf: Leaf) -> str:
    """Name a tensor: the call alone for its only output, otherwise ``path out[1]``."""
    return call.label if leaf.at == "out" else f"{call.label} {leaf.at}"


def compare_structure(
    golden: Run, received: Run, calls: Sequence[Call]
) -> tuple[list[Drift], list[Drift], Pairs]:
    """Return how two runs differ apart from their numbers, and the tensors that can be compared.

    ``calls`` are the golden's calls that can be compared. The first drifts are those inside of a
    call, the second those of added calls and of the order of calls.
    """
    others = {call.key: call for call in received.calls}
    drifts: list[Drift] = []
    pairs: Pairs = {}
    for position, call in enumerate(calls):
        other = others.get(call.key)
        if other is None:
            is_note = _is_optional(call.path, golden, received)
            drift = partial(Drift, "missing", call.label, call.path, position=position)
            drifts.append(drift(expected=call.output, note=is_note))
        else:
            drifts += _compare_calls(position, call, other, (golden, received), pairs)
    return drifts, [*_added_calls(golden, received), *_changed_order(golden, received)], pairs


def _compare_calls(
    position: int, golden: Call, received: Call, runs: tuple[Run, Run], pairs: Pairs
) -> Iterator[Drift]:
    """Yield how two calls differ apart from their numbers; add comparable tensors to ``pairs``."""
    drift = partial(Drift, label=golden.label, path=golden.path, position=position)
    if golden.module_class != received.module_class:
        yield drift("class", expected=golden.module_class, received=received.module_class)
    leaves, container = pair(golden, received, may_lose=_changes_attention(*runs))
    if container is not None:
        kind = "fewer tensors" if container == "lost" else "container"
        note = container == "note"
        yield drift(kind, expected=golden.output, received=received.output, note=note)
    for old, new in leaves:
        before, now = old.summary, new.summary
        drift = partial(drift, label=leaf_label(golden, old))
        is_old = not before.rows and before.dtype != now.dtype and _changes_attention(*runs)
        if is_input(old) and "mask" in old.at and (is_old or (before.rows and now.rows)):
            if (before.dtype, before.shape) != (now.dtype, now.shape):
                yield drift("mask", expected=before.dtype, received=now.dtype, note=True)
            if not is_old:  # compared by meaning, whatever the form; older goldens have no rows
                pairs[position, old.at] = (old, new)
            continue
        is_comparable = before.dtype == now.dtype or bool(before.sketch) == bool(now.sketch)
        if before.dtype != now.dtype and not (is_comparable and _changes_dtype(*runs)):
            yield drift("dtype", expected=before.dtype, received=now.dtype)
        if before.shape != now.shape:
            yield drift("shape", expected=str(list(before.shape)), received=str(list(now.shape)))
        elif is_comparable:
            pairs[position, old.at] = (old, new)


def _added_calls(golden: Run, received: Run) -> Iterator[Drift]:
    """Yield the calls that the golden lacks, at the position of the call before them."""
    positions = {call.key: position for position, call in enumerate(golden.calls)}
    last = 0
    for call in received.calls:
        last = positions.get(call.key, last)
        if call.key not in positions:
            drift = partial(Drift, "added", call.label, call.path, position=last)
            is_note = _is_optional(call.path, golden, received)
            yield drift(received=call.output, note=is_note)


def _changed_order(golden: Run, received: Run) -> Iterator[Drift]:
    """Yield a note at the first call that comes in another order, of those that both runs have."""
    keys = {call.key for call in golden.calls} & {call.key for call in received.calls}
    before = [call.label for call in golden.calls if call.key in keys]
    now = [call.label for call in received.calls if call.key in keys]
    for position, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            yield Drift("order", old, expected=old, received=new, note=True, position=position)
            return


def _changes_dtype(golden: Run, received: Run) -> bool:
    """Tell whether other dtypes are expected; a scan is made to compare dtypes too."""
    is_scan = golden.kind == received.kind == "scan"
    return golden.environment.dtype != received.environment.dtype and not is_scan


def _changes_attention(golden: Run, received: Run) -> bool:
    return golden.environment.attention != received.environment.attention


def _is_optional(path: str, golden: Run, received: Run) -> bool:
    """Tell whether a call may be missing or new because the attention implementation changed.

    Some implementations call a dropout or a norm as a module of its own, others do not.
    """
    parent = path.rpartition(".")[0]
    return _changes_attention(golden, received) and all(
        any(call.path == parent for call in run.calls) for run in (golden, received)
    )
