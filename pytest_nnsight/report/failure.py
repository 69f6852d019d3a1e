"""A failed comparison -> the lines of its assertion: verdict, worst calls, what to run next."""

from __future__ import annotations

import math

from pytest_nnsight.compare import Comparison, Drift
from pytest_nnsight.diagnose import Diagnosis, Finding, diagnose

FEW, MANY = 3, 20


def failure_lines(finding: Finding, rerun: str, detailed: bool) -> list[str]:
    """Return the report of one mismatch, the verdict first.

    Without ``detailed`` it stays within the 8 lines that pytest shows. ``rerun`` is the command
    that refreshes this golden.
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
    lines = [verdict(comparison, diagnosis)]
    lines += _worst(comparison, MANY if detailed else FEW)
    notes = [drift for drift in comparison.drifts if drift.note]
    if notes and detailed:
        lines += [f"note: {_difference(drift)}" for drift in notes[:FEW]]
    lines.append(f"golden: {finding.golden_file}")
    lines.append(f"if this is right: {rerun}")
    return lines


def verdict(comparison: Comparison, diagnosis: Diagnosis) -> str:
    """Say in one line what differs, where it starts, how much, how much is allowed, and why."""
    start, failures = diagnosis.start, comparison.failures
    calls = len({drift.label.split(" ")[0] for drift in failures if _is_of_call(drift)})
    cause = f"cause: {diagnosis.cause} ({diagnosis.evidence})"
    if start.label == "prompt" or not _is_of_call(start):
        what = f"{start.label} {_change(start)}"
        return f"golden drift: {what}; {cause}"
    count = f"{calls} of {comparison.calls} calls"
    if start.kind == "values":
        where = f"{start.label} (rel {_size(start.rel)}, allowed {_size(start.allowed)})"
    else:
        where = f"{start.label} ({start.kind} {_change(start)})"
    return f"golden drift: {count}, starts at {where}; {cause}"


def _is_of_call(drift: Drift) -> bool:
    return drift.kind not in ("ids", "settings", "kind")


def _worst(comparison: Comparison, limit: int) -> list[str]:
    """List the largest drifts, expected against received."""
    failures = sorted(
        comparison.failures, key=lambda drift: (-_rank(drift), -drift.rel, drift.position)
    )
    lines = [_difference(drift) for drift in failures[:limit]]
    rest = len(failures) - limit
    if rest > 0:
        lines.append(
            f"... and {rest} more, smaller" + (" (-vv shows them)" if limit == FEW else "")
        )
    return lines


def _rank(drift: Drift) -> int:
    return 0 if drift.kind == "values" else 1


def _difference(drift: Drift) -> str:
    if drift.kind != "values":
        return f"{drift.label}: {drift.kind} {_change(drift)}"
    token = "" if drift.token is None else f" at token {drift.token}"
    return f"{drift.label}: rel {_size(drift.rel)}{token}; {drift.expected} -> {drift.received}"


def _change(drift: Drift) -> str:
    return f"{drift.expected or 'absent'} -> {drift.received or 'absent'}"


def _size(rel: float) -> str:
    return "inf" if math.isinf(rel) else f"{rel:.1e}".replace("e-0", "e-").replace("e+0", "e+")
