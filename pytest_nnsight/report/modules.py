"""Make one row for each module: its drift, and its statistics in both runs.

Of several visits, the row shows the one that drifts most. For a golden alone, rows hold only
statistics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.pairing import is_input, pair
from pytest_nnsight.errors import visible
from pytest_nnsight.run import Call, Leaf, Run, Summary

BARS, MOST_MODULES = 40, 5
_PARTS = {
    "attention": ("attn", "attention"),
    "mlp": ("mlp", "ffn", "feed_forward", "feedforward", "densereludense", "intermediate", "moe"),
    "norm": ("norm", "ln_"),
}


@dataclass(frozen=True, slots=True)
class ModuleRow:
    """Hold the call and the output of a module that drift most.

    ``state`` is ``same``, ``within noise``, ``drift``, ``structure`` or ``not compared``.
    ``received`` is the output of the run if it differs.
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


def module_rows(
    golden: Run, received: Run | None = None, comparison: Comparison | None = None
) -> list[ModuleRow]:
    """Return a row for each module of the golden, in the order in which first calls end."""
    visits: dict[str, list[tuple[int, Call]]] = {}
    for position, call in enumerate(golden.calls):
        visits.setdefault(call.path, []).append((position, call))
    others = {call.key: call for call in received.calls} if received is not None else {}
    failing: dict[str, set[str]] = {}
    for drift in comparison.failures if comparison is not None else ():
        failing.setdefault(drift.path, set()).add(drift.kind)
    return [
        _row(calls, others, comparison, failing.get(path, set())) for path, calls in visits.items()
    ]


def _row(
    calls: Sequence[tuple[int, Call]],
    others: dict[tuple[str, int], Call],
    comparison: Comparison | None,
    failing: set[str],
) -> ModuleRow:
    outputs = [(p, call, leaf) for p, call in calls for leaf in call.leaves if not is_input(leaf)]
    values = comparison.values if comparison is not None else {}
    compared = [(values[p, x.at], call, x) for p, call, x in outputs if (p, x.at) in values]
    state = "structure" if failing - {"values"} else "drift" if failing else ""
    if comparison is None or not compared:
        state = state if state == "structure" else "not compared"
        return ModuleRow(calls[0][1], outputs[0][2] if outputs else None, len(calls), state)
    is_same = all(distance.is_same for distance, _, _ in compared)
    state = state or ("same" if is_same else "within noise")
    distance, call, leaf = max(compared, key=lambda each: each[0].rms)
    allowed = comparison.tolerance.allowed_for(leaf.summary)
    received = None
    if call.key in others and not distance.is_same:
        pairs, _ = pair(call, others[call.key], may_lose=True)
        received = next((new.summary for old, new in pairs if old.at == leaf.at), None)
    return ModuleRow(call, leaf, len(calls), state, distance, allowed, received)


def json_number(number: float | None, digits: int = 4) -> float | str | None:
    """Round a number to some digits; return those that JSON lacks as text: ``"Infinity"``."""
    if number is None:
        return None
    return float(f"{number:.{digits}g}") if math.isfinite(number) else json.dumps(float(number))


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
        "now": [_statistics(row.received) for row in rows],
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


def worst_modules(rows: Sequence[ModuleRow]) -> list[dict[str, Any]]:
    """Return the modules that drift most, the largest drift first."""
    found = sorted((row for row in rows if row.rel > 0), key=lambda row: -row.rel)[:MOST_MODULES]
    return [
        {
            "label": visible(row.call.label),
            "rel": json_number(row.rel, 2),
            "allowed": json_number(row.allowed),
        }
        for row in found
    ]
