"""Drifts -> where they start: the call whose inputs agree and whose output does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_nnsight.compare import Comparison, place
from pytest_nnsight.distance import SAME, Distance
from pytest_nnsight.drift import Drift
from pytest_nnsight.pairing import is_input
from pytest_nnsight.run import ROOT, Run
from pytest_nnsight.timeline import Value, timeline
from pytest_nnsight.tolerance import TOLERANCES

PROMPT, GENERATED = "prompt", "generated"
_JUMP = 3.0  # times what came in, for a drift to have started in a call
_QUIET = 30  # values equal bit by bit show that what could move numbers did not
_MANY = 0.2  # of the modules of one class
_SHARE = 1 / 50  # of the first failure, for an earlier jump to have led to it
_ORDER = {"kind": -4, "settings": -3, "ids": -2, "tensors": -1}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a drift starts.

    ``where`` is the module whose own code made the first wrong value, ``prompt`` or ``generated``
    where no module did. ``value`` is that value, ``None`` where the start is no drift of values.
    ``is_jump`` tells that what went into it agrees; otherwise the drift grew as noise does.
    ``parallel`` says how many modules of the same class start a drift of their own, as text, empty
    where it is the only one.
    """

    start: Drift
    where: str
    value: Value | None = None
    is_jump: bool = True
    parallel: str = ""


def locate(golden: Run, received: Run, comparison: Comparison) -> Origin:
    """Find where the failures of ``comparison`` start."""
    failures = comparison.failures
    asked = [drift for drift in failures if drift.kind in _ORDER and drift.label != GENERATED]
    if asked:
        start = min(asked, key=lambda drift: _ORDER[drift.kind])
        return Origin(start, PROMPT)
    of_calls = [drift for drift in failures if drift.label != GENERATED]
    if not of_calls:
        return Origin(failures[0], GENERATED)
    values = timeline(golden.calls)
    drifts = [comparison.values.get((v.position, v.leaf.at), SAME) for v in values]
    times = {id(value.leaf.summary): time for time, value in enumerate(values)}
    first = min(of_calls, key=lambda drift: _time(drift, golden, values, times))
    until = _time(first, golden, values, times)
    if first.kind != "values":
        return _of_structure(first, values[until] if until < len(values) else None)
    at, is_jump = _origin(values, drifts, until, golden, comparison)
    value = values[at]
    label = place(value.call, value.leaf)
    quiet = Drift(
        "values",
        label,
        value.call.path,
        drifts[at],
        comparison.tolerance.of(value.leaf.summary),
        position=value.position,
    )
    start = next((drift for drift in of_calls if drift.label == label), quiet)
    parallel = _parallel(values, drifts, value, golden, comparison)
    return Origin(start, value.where, value, is_jump, parallel)


def _of_structure(first: Drift, value: Value | None) -> Origin:
    """Return where another structure starts: in a module, or in what its parent gives to it."""
    at = first.label.partition(" ")[2]
    if value is None or not at.startswith(("in.", "in[")):
        return Origin(first, first.path)
    return Origin(first, value.where, value)


def _time(drift: Drift, golden: Run, values: Sequence[Value], times: dict[int, int]) -> int:
    """Return when the value of a drift was first there; calls without values end in order."""
    at = drift.label.partition(" ")[2] or "out"
    if 0 <= drift.position < len(golden.calls):
        for leaf in golden.calls[drift.position].leaves:
            if leaf.at == at and drift.kind != "missing":
                return times[id(leaf.summary)]
    ended = [
        i for i, v in enumerate(values) if not is_input(v.leaf) and v.position >= drift.position
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
    name = classes.get(start.where)
    if name is None or start.where == ROOT:
        return ""
    floor = noise_floor(golden)
    alike = {path for path, other in classes.items() if other == name}
    jumping = {
        value.where
        for index, value in enumerate(values)
        if value.where in alike
        and not drifts[index].is_same
        and _jumps(index, values, drifts, floor)
    }
    is_many = len(jumping) >= max(3, _MANY * len(alike))  # a few may amplify what came in
    return f"{len(jumping)} of {len(alike)} {name}" if is_many else ""
