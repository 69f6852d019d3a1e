"""Two runs -> one row for each module: its drift, and its statistics then and now.

A module that was visited more than once stands with the visit that drifts most. Without a second
run the rows hold the statistics alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import SAME, Distance
from pytest_nnsight.compare.pairing import is_input, pair
from pytest_nnsight.errors import visible
from pytest_nnsight.report.number_format import plain
from pytest_nnsight.run import Call, Leaf, Run, Summary

STATISTICS = ("mean", "std", "min", "max", "rms", "nan", "inf")
BARS = 40
_PARTS = {
    "attention": ("attn", "attention"),
    "mlp": ("mlp", "ffn", "feed_forward", "feedforward", "densereludense", "intermediate", "moe"),
    "norm": ("norm", "ln_"),
}


@dataclass(frozen=True, slots=True)
class ModuleRow:
    """One module: the call and output that drift most, of both runs where there are two.

    ``state`` is ``same``, ``within noise``, ``drift``, ``structure`` or ``not compared``.
    """

    call: Call
    leaf: Leaf | None
    visits: int
    state: str
    distance: Distance | None = None
    allowed: float = 0.0
    received: Summary | None = None

    @property
    def rel(self) -> float:
        """The drift over all tokens, 0 where nothing was compared."""
        return self.distance.rms if self.distance is not None else 0.0


def module_rows(
    golden: Run, received: Run | None = None, comparison: Comparison | None = None
) -> list[ModuleRow]:
    """Return a row for each module of the golden, in the order of their first calls' ends."""
    visits: dict[str, list[int]] = {}
    for position, call in enumerate(golden.calls):
        visits.setdefault(call.path, []).append(position)
    others = {call.key: call for call in received.calls} if received is not None else {}
    failing: dict[str, set[str]] = {}
    for drift in comparison.failures if comparison is not None else ():
        failing.setdefault(drift.path, set()).add(drift.kind)
    return [
        _row(golden, positions, others, comparison, failing.get(path, set()))
        for path, positions in visits.items()
    ]


def _row(
    golden: Run,
    positions: Sequence[int],
    others: dict[tuple[str, int], Call],
    comparison: Comparison | None,
    failing: set[str],
) -> ModuleRow:
    values = comparison.values if comparison is not None else {}
    outputs = [
        (position, leaf)
        for position in positions
        for leaf in golden.calls[position].leaves
        if not is_input(leaf)
    ]
    known = [(values[p, leaf.at], p, leaf) for p, leaf in outputs if (p, leaf.at) in values]
    if comparison is None or not known:
        first = golden.calls[positions[0]]
        leaf = next((leaf for _, leaf in outputs), None)
        state = "structure" if failing - {"values"} else "not compared"
        return ModuleRow(first, leaf, len(positions), state)
    distance, position, leaf = max(known, key=lambda each: each[0].rms)
    call = golden.calls[position]
    other = others.get(call.key)
    pairs = pair(call, other, may_lose=True)[0] if other is not None else []
    return ModuleRow(
        call,
        leaf,
        len(positions),
        _state([each for each, _, _ in known], failing),
        distance,
        comparison.tolerance.allowed_for(leaf.summary),
        next((new.summary for old, new in pairs if old.at == leaf.at), None),
    )


def _state(distances: Sequence[Distance], failing: set[str]) -> str:
    if failing:
        return "structure" if failing - {"values"} else "drift"
    return "same" if all(each.is_same for each in distances) else "within noise"


def part_of(path: str) -> str:
    """Tell attention from MLP by the names along a path: ``attention``, ``mlp``, ``norm``."""
    names = path.lower().split(".")
    for name in reversed(names):
        for part, words in _PARTS.items():
            if any(word in name for word in words):
                return part
    return "other"


def columns(rows: Sequence[ModuleRow]) -> dict[str, list[Any]]:
    """Return the rows as JSON, column by column; ``now`` is null where it is the same as then."""
    return {
        "path": [visible(row.call.path) for row in rows],
        "visit": [row.call.visit for row in rows],
        "visits": [row.visits for row in rows],
        "class": [visible(row.call.module_class) for row in rows],
        "part": [part_of(row.call.path) for row in rows],
        "output": [visible(row.leaf.at if row.leaf is not None else "") for row in rows],
        "shape": [_shape(row.leaf) for row in rows],
        "state": [row.state for row in rows],
        "rel": [plain(row.rel) if row.distance is not None else None for row in rows],
        "worst": [plain(row.distance.worst) if row.distance is not None else None for row in rows],
        "allowed": [plain(row.allowed) if row.distance is not None else None for row in rows],
        "noise": [plain(row.leaf.summary.noise) if row.leaf is not None else None for row in rows],
        "then": [_statistics(row.leaf.summary if row.leaf is not None else None) for row in rows],
        "now": [_statistics(row.received if _moved(row) else None) for row in rows],
    }


def _moved(row: ModuleRow) -> bool:
    return row.distance is not None and not row.distance.is_same


def _shape(leaf: Leaf | None) -> str:
    return "\u00d7".join(map(str, leaf.summary.shape)) if leaf is not None else ""


def _statistics(summary: Summary | None) -> list[float | str | None] | None:
    """Return what `STATISTICS` names."""
    if summary is None:
        return None
    numbers = (summary.mean, summary.std, summary.minimum, summary.maximum, summary.rms)
    return [*(plain(number, 5) for number in numbers), summary.nan, summary.inf]


def depth(rows: Sequence[ModuleRow], bars: int = BARS) -> list[float | str | None]:
    """Return the largest drift in each of so many equal stretches from the first module on."""
    compared = [row.rel for row in rows if row.distance is not None]
    count = min(bars, len(compared))
    edges = [len(compared) * i // count for i in range(count + 1)] if count else []
    return [plain(max(compared[a:b]), 2) for a, b in pairwise(edges)]


def worst(rows: Sequence[ModuleRow], count: int = 5) -> list[dict[str, Any]]:
    """Return the modules that drift most, the largest drift first."""
    moved = [row for row in rows if (row.distance or SAME).rms > 0]
    found = sorted(moved, key=lambda row: -row.rel)[:count]
    return [
        {"label": visible(row.call.label), "rel": plain(row.rel, 2), "allowed": plain(row.allowed)}
        for row in found
    ]
