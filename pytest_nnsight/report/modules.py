"""Make one row for each module: its drift, and its statistics in both runs.

Of several visits, the row shows the one that drifts most. For a golden alone, rows hold only
statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.pairing import is_input, pair
from pytest_nnsight.errors import visible
from pytest_nnsight.report.number_format import json_number
from pytest_nnsight.run import Call, Leaf, Run, Summary

BARS = 40
_PARTS = {
    "attention": ("attn", "attention"),
    "mlp": ("mlp", "ffn", "feed_forward", "feedforward", "densereludense", "intermediate", "moe"),
    "norm": ("norm", "ln_"),
}


@dataclass(frozen=True, slots=True)
class ModuleRow:
    """Hold the call and the output of a module that drift most.

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
        """Return the drift over all tokens, 0 if nothing was compared."""
        return self.distance.rms if self.distance is not None else 0.0

    @property
    def is_same(self) -> bool:
        """Tell whether nothing differs, or nothing was compared."""
        return self.distance is None or self.distance.is_same


def module_rows(
    golden: Run, received: Run | None = None, comparison: Comparison | None = None
) -> list[ModuleRow]:
    """Return a row for each module of the golden, in the order in which first calls end."""
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
    leaves = [(position, leaf) for position in positions for leaf in golden.calls[position].leaves]
    outputs = [(position, leaf) for position, leaf in leaves if not is_input(leaf)]
    compared = [(values[p, leaf.at], p, leaf) for p, leaf in outputs if (p, leaf.at) in values]
    if comparison is None or not compared:
        first = golden.calls[positions[0]]
        leaf = next((leaf for _, leaf in outputs), None)
        state = "structure" if failing - {"values"} else "not compared"
        return ModuleRow(first, leaf, len(positions), state)
    distance, position, leaf = max(compared, key=lambda each: each[0].rms)
    call = golden.calls[position]
    other = others.get(call.key)
    pairs = pair(call, other, may_lose=True)[0] if other is not None else []
    return ModuleRow(
        call,
        leaf,
        len(positions),
        _state([each for each, _, _ in compared], failing),
        distance,
        comparison.tolerance.allowed_for(leaf.summary),
        next((new.summary for old, new in pairs if old.at == leaf.at), None),
    )


def _state(distances: Sequence[Distance], failing: set[str]) -> str:
    if failing:
        return "structure" if failing - {"values"} else "drift"
    return "same" if all(each.is_same for each in distances) else "within noise"


def part_of(path: str) -> str:
    """Return ``attention``, ``mlp``, ``norm`` or ``other`` by the names along a path."""
    for name in reversed(path.lower().split(".")):
        for part, words in _PARTS.items():
            if any(word in name for word in words):
                return part
    return "other"


def module_columns(rows: Sequence[ModuleRow]) -> dict[str, list[Any]]:
    """Return the rows as JSON by column; ``now`` is null where it equals ``then``."""
    distances = [row.distance for row in rows]
    summaries = [row.leaf and row.leaf.summary for row in rows]
    return {
        "path": [visible(row.call.path) for row in rows],
        "visit": [row.call.visit for row in rows],
        "visits": [row.visits for row in rows],
        "class": [visible(row.call.module_class) for row in rows],
        "part": [part_of(row.call.path) for row in rows],
        "output": [visible(row.leaf.at) if row.leaf else "" for row in rows],
        "shape": ["\u00d7".join(map(str, each.shape)) if each else "" for each in summaries],
        "state": [row.state for row in rows],
        "rel": [json_number(each.rms if each else None) for each in distances],
        "worst": [json_number(each.worst if each else None) for each in distances],
        "allowed": [json_number(row.allowed if row.distance else None) for row in rows],
        "noise": [json_number(each and each.noise) for each in summaries],
        "then": [_statistics(each) for each in summaries],
        "now": [_statistics(None if row.is_same else row.received) for row in rows],
    }


def _statistics(summary: Summary | None) -> list[float | str | None] | None:
    """Return mean, std, min, max, rms and the numbers of NaN and Inf."""
    if summary is None:
        return None
    numbers = (summary.mean, summary.std, summary.minimum, summary.maximum, summary.rms)
    return [*(json_number(number, 5) for number in numbers), summary.nan, summary.inf]


def drift_over_depth(rows: Sequence[ModuleRow], bars: int = BARS) -> list[float | str | None]:
    """Return the largest drift in each of ``bars`` equal groups of consecutive modules."""
    compared = [row.rel for row in rows if row.distance is not None]
    count = min(bars, len(compared))
    edges = [len(compared) * i // count for i in range(count + 1)] if count else []
    return [json_number(max(compared[a:b]), 2) for a, b in pairwise(edges)]


def worst_modules(rows: Sequence[ModuleRow], count: int = 5) -> list[dict[str, Any]]:
    """Return the modules that drift most, the largest drift first."""
    found = sorted((row for row in rows if row.rel > 0), key=lambda row: -row.rel)[:count]
    columns = [
        (visible(r.call.label), json_number(r.rel, 2), json_number(r.allowed)) for r in found
    ]
    return [dict(zip(("label", "rel", "allowed"), column, strict=True)) for column in columns]
