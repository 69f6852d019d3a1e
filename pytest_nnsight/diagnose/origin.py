"""Drifts -> where they start: the call whose inputs agree and whose output does not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import SAME, Distance
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.compare.measurement import leaf_label
from pytest_nnsight.compare.pairing import is_input
from pytest_nnsight.compare.timeline import LeafKey, Value
from pytest_nnsight.compare.tolerance import TOLERANCES
from pytest_nnsight.run import ROOT, Call, Run

PROMPT, GENERATED = "prompt", "generated"
_MASK = re.compile(r"(\w*mask\w*)=(None|tensor)")
_JUMP = 3.0  # times what came in, for a drift to have started in a call
_QUIET = 30  # values equal bit by bit show that what could move numbers did not
_MANY = 0.2  # of the modules of one class
_SHARE = 1 / 50  # of the first failure, for an earlier jump to have led to it
_ORDER = {"kind": -4, "settings": -3, "ids": -2, "tensors": -1}


@dataclass(frozen=True, slots=True)
class DriftOrigin:
    """Where a drift starts.

    ``where`` is the module whose own code made the first wrong value; ``prompt`` for all that is
    asked, and ``generated``, where no module did. ``value`` is that value, ``None`` where the start
    is no drift of values. ``is_jump`` tells that what went into it agrees; otherwise the drift grew
    as noise does. ``parallel`` says how many modules of the same class start a drift of their own,
    as text, empty where it is the only one. ``given`` tells of a mask that a module was given and
    was not before, or the reverse.
    """

    start: Drift
    where: str
    value: Value | None = None
    is_jump: bool = True
    parallel: str = ""
    given: str = ""


def locate(golden: Run, received: Run, comparison: Comparison) -> DriftOrigin:
    """Find where the failures of ``comparison`` start."""
    failures = comparison.failures
    asked = [drift for drift in failures if drift.kind in _ORDER and drift.label != GENERATED]
    if asked:
        start = min(asked, key=lambda drift: _ORDER[drift.kind])
        return DriftOrigin(start, PROMPT)
    of_calls = [drift for drift in failures if drift.label != GENERATED]
    if not of_calls:
        return DriftOrigin(failures[0], GENERATED)
    values = comparison.timeline
    drifts = [comparison.values.get((v.position, v.leaf.at), SAME) for v in values]
    times = {place: time for time, value in enumerate(values) for place in value.keys}
    first = min(of_calls, key=lambda drift: _time(drift, values, times))
    until = _time(first, values, times)
    if first.kind != "values":
        outer = _outermost(first, of_calls)
        return _of_structure(outer, values[until] if until < len(values) else None)
    at, is_jump = _origin(values, drifts, until, golden, comparison)
    value = values[at]
    label = leaf_label(value.call, value.leaf)
    quiet = Drift(
        "values",
        label,
        value.call.path,
        drifts[at],
        comparison.tolerance.allowed_for(value.leaf.summary),
        position=value.position,
    )
    start = next((drift for drift in of_calls if drift.label == label), quiet)
    parallel = _parallel(values, drifts, value, golden, comparison)
    where, given = _giver(value, golden, received) if is_jump else (value.module, "")
    return DriftOrigin(start, where, value, is_jump, parallel, given)


def _giver(value: Value, golden: Run, received: Run) -> tuple[str, str]:
    """Return the module that makes a value, or that gives its maker a mask it had not before.

    A mask that was ``None`` is no value that could drift; it shows in what goes into a module.
    """
    others = {call.key: call for call in received.calls}
    where, given = value.module, ""
    for call in golden.calls[value.position :]:
        if call.path != where or call.key not in others:
            continue
        changed = _changed_mask(call, others[call.key])
        if not changed:
            break
        given = f"{where} is given {changed}"
        where = where.rpartition(".")[0] or ROOT
        while where != ROOT and where not in golden.paths:  # a list of modules is never called
            where = where.rpartition(".")[0] or ROOT
    return where, given


def _changed_mask(before: Call, now: Call) -> str:
    """Say which mask among the inputs of a call is there in one run only."""
    old, new = (dict(_MASK.findall(call.inputs or "")) for call in (before, now))
    changed = (name for name in old if name in new and old[name] != new[name])
    name = next(changed, None)
    return "" if name is None else f"{name}: {old[name]} -> {new[name]}"


def _outermost(first: Drift, drifts: Sequence[Drift]) -> Drift:
    """Return the change of a module around the first one that changed, where that is one of it.

    A module that is gone, came, or is of another class takes those inside it along.
    """
    around = [
        drift
        for drift in drifts
        if drift.kind in ("missing", "added", "class") and first.path.startswith(f"{drift.path}.")
    ]
    return min(around, key=lambda drift: len(drift.path), default=first)


def _of_structure(first: Drift, value: Value | None) -> DriftOrigin:
    """Return where another structure starts: in a module, or in what its parent gives to it."""
    at = first.label.partition(" ")[2]
    if value is None or not at.startswith(("in.", "in[")):
        return DriftOrigin(first, first.path)
    return DriftOrigin(first, value.module, value)


def _time(drift: Drift, values: Sequence[Value], times: Mapping[LeafKey, int]) -> int:
    """Return when the value of a drift was first there; calls without values end in order."""
    at = drift.label.partition(" ")[2] or "out"
    if drift.kind not in ("missing", "added") and (drift.position, at) in times:
        return times[drift.position, at]
    ended = [
        time
        for time, value in enumerate(values)
        if not is_input(value.leaf) and value.position >= drift.position
    ]
    return min(ended, default=len(values))


def _origin(
    values: Sequence[Value],
    drifts: Sequence[Distance],
    until: int,
    golden: Run,
    comparison: Comparison,
) -> tuple[int, bool]:
    """Return the index of the value where the drift starts, and whether it jumps there.

    Where bits should be equal, or were for long, it is the first that is not. Elsewhere noise is
    everywhere; then it is the first jump that is large enough to have led to the first failure.
    """
    unequal = next((i for i, drift in enumerate(drifts) if not drift.is_same), until)
    if comparison.bits.is_expected or unequal >= _QUIET:
        return unequal, True
    until = min(until, len(values) - 1)
    floor = noise_floor(golden)
    for index in range(until + 1):
        large = drifts[index].worst >= _SHARE * drifts[until].worst
        if large and _jumps(index, values, drifts, floor):
            return index, True
    return until, False


def noise_floor(golden: Run) -> float:
    """Return the drift below which two values agree, where bits need not be equal."""
    return TOLERANCES.get(golden.environment.dtype, TOLERANCES["float32"]) / 8


def _jumps(index: int, values: Sequence[Value], drifts: Sequence[Distance], floor: float) -> bool:
    """Tell whether a value drifts by more than what went into it explains."""
    entered = max((drifts[i].rms for i in values[index].fed_by), default=0.0)
    floor = max(floor, values[index].leaf.summary.noise)
    worst = max((drifts[i].worst for i in values[index].fed_by), default=0.0)
    drift = drifts[index]
    return drift.rms > _JUMP * max(entered, floor) or drift.worst > 2 * _JUMP * max(worst, floor)


def _parallel(
    values: Sequence[Value],
    drifts: Sequence[Distance],
    start: Value,
    golden: Run,
    comparison: Comparison,
) -> str:
    """Count the modules of the starting one's class in which a drift starts as well."""
    classes = {call.path: call.module_class for call in golden.calls}
    name = classes.get(start.module)
    if name is None:
        return ""
    floor = noise_floor(golden)
    alike = {path for path, other in classes.items() if other == name}
    jumping = {
        value.module
        for index, value in enumerate(values)
        if value.module in alike and _jumps(index, values, drifts, floor)
    }
    is_many = len(jumping) >= max(3, _MANY * len(alike))  # a few may amplify what came in
    return f"{len(jumping)} of {len(alike)} {name}" if is_many else ""
