"""Find where a drift starts: the call whose inputs agree and whose output does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import SAME, Distance
from pytest_nnsight.compare.drift import Drift, leaf_label
from pytest_nnsight.compare.pairing import is_input
from pytest_nnsight.compare.positions import RealTokens
from pytest_nnsight.compare.timeline import LeafKey, Value
from pytest_nnsight.compare.tolerance import TOLERANCES
from pytest_nnsight.run import ROOT, Call, Leaf, Run

PROMPT, GENERATED = "prompt", "generated"
_MASK = re.compile(r"(\w*mask\w*)=(None|tensor|BlockMask)")
_JUMP = 3.0  # times the drift of the inputs, for a drift to have started in a call
_ENOUGH_EQUAL = 30  # first values that are equal bit by bit: then this machine repeats the bits
_CLASS_SHARE = 0.2  # of the modules of a class, for their number to be worth a mention
_EARLY_SHARE = 1 / 50  # of the first failure, for an earlier jump to have caused it
_INPUT_ORDER = {"kind": 0, "settings": 1, "ids": 2, "tensors": 3}


@dataclass(frozen=True, slots=True)
class DriftOrigin:
    """Say where a drift starts.

    ``where`` is the module whose own code made the first wrong value, or `PROMPT` for anything that
    the test asks for, or `GENERATED` where only a generated token differs. ``value`` is that first
    wrong value, ``None`` where the start is not a drift of values. ``is_jump`` is true where its
    inputs agree, false where the drift grew as noise does. ``class_count`` says how many modules of
    the same class start a drift, like ``5 of 5 LlamaRMSNorm``; empty for few. ``mask_change`` says
    which module is given a mask in one run only.
    """

    start: Drift
    where: str
    value: Value | None = None
    is_jump: bool = True
    class_count: str = ""
    mask_change: str = ""


def locate(golden: Run, received: Run, comparison: Comparison) -> DriftOrigin:
    """Find where the failures of a comparison start. The comparison must have a failure.

    Another container explains no other failure, and is the start only where there is no other.
    """
    failures = [x for x in comparison.failures if x.kind != "container" or not x.is_structural]
    failures = [x for x in failures or comparison.failures if x.label != GENERATED]
    inputs = [drift for drift in failures if drift.kind in _INPUT_ORDER]
    if inputs:
        return DriftOrigin(min(inputs, key=lambda drift: _INPUT_ORDER[drift.kind]), PROMPT)
    if not failures:
        return DriftOrigin(comparison.failures[-1], GENERATED)
    values = comparison.timeline
    times = {key: time for time, value in enumerate(values) for key in value.keys}
    first = min(failures, key=lambda drift: _drift_time(drift, values, times))
    end = _drift_time(first, values, times)
    if first.kind == "values":
        return _values_origin(golden, received, comparison, failures, end)
    outer = _outermost_change(first, failures)
    if end < len(values) and outer.label.partition(" ")[2].startswith(("in.", "in[")):
        return DriftOrigin(outer, values[end].module, values[end])
    return DriftOrigin(outer, outer.path)


def _values_origin(
    golden: Run, received: Run, comparison: Comparison, failures: Sequence[Drift], end: int
) -> DriftOrigin:
    """Return the origin of a drift of values; ``end`` is the index of the first failing value."""
    values = comparison.timeline
    drifts = [comparison.values.get(value.key, SAME) for value in values]
    noise = TOLERANCES.get(golden.environment.dtype, TOLERANCES["float32"]) / 8
    jumps = [_is_jump(value, drifts, index, noise) for index, value in enumerate(values)]
    index, is_jump = _find_start(drifts, jumps, end, comparison.bits.is_expected)
    value, label = values[index], leaf_label(values[index].call, values[index].leaf)
    allowed = comparison.tolerance.allowed_for(value.leaf.summary)
    start = Drift("values", label, value.call.path, drifts[index], allowed, position=value.position)
    start = next((failure for failure in failures if failure.label == label), start)
    starting = {each.module for each, jumps_here in zip(values, jumps, strict=True) if jumps_here}
    count = _count_of_class(starting, value.module, golden)
    where, change = value.module, ""
    if is_jump:
        where, change = _find_changed_mask(where, value.position, golden, received)
    return DriftOrigin(start, where, value, is_jump, count, change)


def _find_changed_mask(where: str, position: int, golden: Run, received: Run) -> tuple[str, str]:
    """Return the module that passes on a changed mask, and the change as text.

    Follow the mask from the module ``where`` outwards. Without a changed mask, return ``where`` and
    no text. A mask that was ``None`` has no value that could drift: only the inputs' text shows it.
    """
    others = {call.key: call for call in received.calls}
    change, real_tokens = "", RealTokens(golden)
    for index, call in enumerate(golden.calls[position:], position):
        if call.path != where or call.key not in others:
            continue
        mask = _changed_mask(call, others[call.key], partial(real_tokens.is_default, index))
        if not mask:
            break
        change, where = f"{where} is given {mask}", where.rpartition(".")[0] or ROOT
        while where != ROOT and where not in golden.paths:  # a list of modules is never called
            where = where.rpartition(".")[0] or ROOT
    return where, change


def _changed_mask(golden: Call, received: Call, is_default: Callable[[Leaf], bool]) -> str:
    """Return the first mask that only one of two calls is given: ``mask: None -> tensor``.

    But not one that has the meaning of no mask.
    """
    old, new = (dict(_MASK.findall(call.inputs or "")) for call in (golden, received))
    same = {x.at for call in (golden, received) for x in call.leaves if is_default(x)}
    changed = (name for name in old if (old[name] == "None") != (new.get(name) == "None"))
    name = next((name for name in changed if name in new and f"in.{name}" not in same), "")
    return f"{name}: {old[name]} -> {new[name]}" if name else ""


def _outermost_change(first: Drift, drifts: Sequence[Drift]) -> Drift:
    """Return the first change, or that of the outermost module that replaced all inside it."""
    replaced = [drift for drift in drifts if drift.kind in ("missing", "added", "class")]
    around = [drift for drift in replaced if first.path.startswith(f"{drift.path}.")]
    return min(around, key=lambda drift: len(drift.path), default=first)


def _drift_time(drift: Drift, values: Sequence[Value], times: Mapping[LeafKey, int]) -> int:
    """Return the index of the value that drifts, or of the first value from that call on."""
    location = drift.label.partition(" ")[2] or "out"
    if drift.kind not in ("missing", "added") and (drift.position, location) in times:
        return times[drift.position, location]
    later = (
        time
        for time, value in enumerate(values)
        if not is_input(value.leaf) and value.position >= drift.position
    )
    return next(later, len(values))


def _find_start(
    drifts: Sequence[Distance], jumps: Sequence[bool], end: int, bits_are_expected: bool
) -> tuple[int, bool]:
    """Return the index of the value where a drift starts, and whether it jumps there.

    Where bits should be equal, or many first values are, the first unequal value is the start.
    Elsewhere every value has noise: there it is the first jump that is large enough to have caused
    the first failure.
    """
    unequal = next((index for index, drift in enumerate(drifts) if not drift.is_same), end)
    if bits_are_expected or unequal >= _ENOUGH_EQUAL:
        return unequal, True
    end = min(end, len(drifts) - 1)
    least = _EARLY_SHARE * drifts[end].worst
    found = (index for index in range(end + 1) if jumps[index] and drifts[index].worst >= least)
    start = next(found, None)
    return (end, False) if start is None else (start, True)


def _is_jump(value: Value, drifts: Sequence[Distance], index: int, noise: float) -> bool:
    """Tell whether a value drifts by more than noise and the drift of its inputs explain."""
    drift, inputs = drifts[index], [drifts[i] for i in value.fed_by]
    noise = max(noise, value.leaf.summary.noise)
    rms = max(noise, *(each.rms for each in inputs), 0.0)
    worst = max(noise, *(each.worst for each in inputs), 0.0)
    return drift.rms > _JUMP * rms or drift.worst > 2 * _JUMP * worst


def _count_of_class(starting: Set[str], where: str, golden: Run) -> str:
    """Count the modules of the class of ``where`` in which a drift starts; empty for few."""
    classes = {call.path: call.module_class for call in golden.calls}
    name = classes.get(where)
    paths = {path for path, other in classes.items() if other == name}
    count = len(starting & paths)
    is_many = count >= max(3, _CLASS_SHARE * len(paths))  # fewer may only amplify noise
    return f"{count} of {len(paths)} {name}" if is_many else ""
