"""A failed comparison -> the lines of its assertion: verdict, worst calls, what to run next."""

from __future__ import annotations

import math

from pytest_nnsight.compare import Comparison, Drift
from pytest_nnsight.diagnose import Diagnosis, Finding, diagnose

MOST_ROWS = 20
LONGEST_EVIDENCE = 200
PYTEST_LINES, PYTEST_CHARACTERS = 8, 640
"""What pytest shows of an assertion without -vv; more than that it cuts, the last lines first."""


def failure_lines(finding: Finding, refresh: str, detailed: bool) -> list[str]:
    """Return the report of one mismatch, the verdict first.

    Without ``detailed`` it fits into what pytest shows. ``refresh`` is the command that rewrites
    this golden.
    """
    comparison = finding.comparison
    if comparison is None or finding.golden is None or finding.received is None:
        return [f"golden: {finding.error}"]
    diagnosis = diagnose(
        finding.golden,
        finding.received,
        comparison,
        finding.golden_weights,
        finding.received_weights,
    )
    first = verdict(comparison, diagnosis)
    last = [f"golden {finding.golden_file}", f"if this is right: {refresh}"]
    rows = [_difference(drift) for drift in _worst_first(comparison)]
    if detailed:
        notes = [f"note: {_difference(drift)}" for drift in comparison.drifts if drift.note]
        return [first, *_at_most(rows, MOST_ROWS), *notes[:MOST_ROWS], *last]
    return [first, *_fitting(rows, [first, *last]), *last]


def verdict(comparison: Comparison, diagnosis: Diagnosis) -> str:
    """Say in one line what differs, where it starts, how much, how much is allowed, and why."""
    start = diagnosis.start
    cause = f"cause: {diagnosis.cause} ({_shortened(diagnosis.evidence)})"
    if not _is_of_call(start):
        return f"golden drift: {start.label} {_change(start)}; {cause}"
    drifted = {drift.label.split(" ")[0] for drift in comparison.failures if _is_of_call(drift)}
    if start.kind == "values":
        where = f"{start.label} (rel {size(start.rel)}, allowed {size(start.allowed)})"
    else:
        where = f"{start.label} ({start.kind} {_change(start)})"
    return f"golden drift: {len(drifted)} of {comparison.calls} calls, starts at {where}; {cause}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_EVIDENCE else text[: LONGEST_EVIDENCE - 3] + "..."


def size(rel: float) -> str:
    """Write a relative drift: ``0.21``, ``4.9e-3``, ``1e-5``, ``inf``."""
    if math.isinf(rel) or rel == 0:
        return "inf" if rel else "0"
    if rel >= 0.01:
        return f"{rel:.3g}" if rel >= 100 else f"{rel:.2g}"
    mantissa, exponent = f"{rel:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _is_of_call(drift: Drift) -> bool:
    return drift.kind not in ("ids", "settings", "kind")


def _worst_first(comparison: Comparison) -> list[Drift]:
    """Sort failures: exact ones before values, large before small, early before late."""
    return sorted(
        comparison.failures,
        key=lambda drift: (drift.kind == "values", -drift.rel, drift.position),
    )


def _at_most(rows: list[str], limit: int) -> list[str]:
    rest = len(rows) - limit
    return rows if rest <= 0 else [*rows[:limit], f"... and {rest} more, smaller"]


def _fitting(rows: list[str], around: list[str]) -> list[str]:
    """Return as many rows as pytest shows beside the lines ``around`` them."""
    for count in range(len(rows), 0, -1):
        shown = rows[:count]
        if count < len(rows):
            shown = [*shown, f"... and {len(rows) - count} more, smaller (-vv)"]
        lines = [*around, *shown]
        if len(lines) <= PYTEST_LINES and sum(map(len, lines)) <= PYTEST_CHARACTERS:
            return shown
    return []


def _difference(drift: Drift) -> str:
    if drift.kind != "values":
        return f"{drift.label}: {drift.kind} {_change(drift)}"
    token = "" if drift.token is None else f" at token {drift.token}"
    return f"{drift.label}: rel {size(drift.rel)}{token}, {_change(drift)}"


def _change(drift: Drift) -> str:
    return f"{drift.expected or 'absent'} -> {drift.received or 'absent'}"
