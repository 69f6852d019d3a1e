"""A failed comparison -> the lines of its assertion: verdict, worst calls, what to run next."""

from __future__ import annotations

import math

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.diagnose.diagnosis import Diagnosis, Finding, diagnose
from pytest_nnsight.errors import visible
from pytest_nnsight.report.tokens import worst_token
from pytest_nnsight.run import Run

MOST_ROWS = 20
LONGEST_EVIDENCE = 200
_SHARPER = ["half types drift far on other kernels; the sharp check is --nnsight-dtype float32"]
PYTEST_LINES, PYTEST_CHARACTERS = 8, 640
"""What pytest shows of an assertion without -vv; more than that it cuts, the last lines first."""


def diagnosed(finding: Finding) -> Diagnosis | None:
    """Say where and why a failed comparison drifts; ``None`` for another, or for none at all."""
    comparison, golden, received = finding.comparison, finding.golden, finding.received
    if comparison is None or comparison.matches or golden is None or received is None:
        return None
    before, now = finding.golden_weights, finding.received_weights
    return diagnose(golden, received, comparison, before, now)


def failure_lines(
    finding: Finding, diagnosis: Diagnosis | None, refresh: str, detailed: bool
) -> list[str]:
    """Return the report of one mismatch, the verdict first.

    Without ``detailed`` it fits into what pytest shows. ``refresh`` is the command that rewrites
    this golden.
    """
    return [visible(line) for line in _lines(finding, diagnosis, refresh, detailed)]


def _lines(
    finding: Finding, diagnosis: Diagnosis | None, refresh: str, detailed: bool
) -> list[str]:
    comparison = finding.comparison
    if diagnosis is None or comparison is None or finding.golden is None:
        return [f"golden: {finding.error}"]
    first = verdict(finding.golden, comparison, diagnosis)
    exact = [_exact_line(label, true) for label, true in finding.exact.items() if true.worst]
    sharper = _SHARPER if diagnosis.cause == "numerics" and _is_half(finding.golden) else []
    last = [*sharper, f"golden {finding.golden_file}", f"if this is right: {refresh}"]
    golden = finding.golden
    rows = [_difference(golden, drift) for drift in _worst_first(comparison)]
    if detailed:
        noted = [drift for drift in comparison.drifts if drift.note]
        notes = [f"note: {_difference(golden, drift)}" for drift in noted]
        return [first, *exact, *_at_most(rows, MOST_ROWS), *notes[:MOST_ROWS], *last]
    around = [first, *exact[:1], *last]
    return [first, *exact[:1], *_fitting(rows, around), *last]


def comparison_lines(finding: Finding, diagnosis: Diagnosis | None) -> list[str]:
    """Return what differs between two runs of which neither is a golden, the verdict first.

    Not the calls that one of them lacks, of which there may be as many as it has.
    """
    comparison = finding.comparison
    assert comparison is not None
    assert finding.golden is not None
    if comparison.matches and not comparison.bits.count:
        return [f"same: {comparison.calls} calls, bit by bit"]
    if comparison.matches:
        return [f"within noise: {bits_line(comparison)}"]
    assert diagnosis is not None
    first = verdict(finding.golden, comparison, diagnosis).removeprefix("golden ")
    told = [drift for drift in _worst_first(comparison) if drift.kind not in ("missing", "added")]
    rows = [_difference(finding.golden, drift) for drift in told]
    return [visible(line) for line in (first, *_at_most(rows, MOST_ROWS))]


def verdict(golden: Run, comparison: Comparison, diagnosis: Diagnosis) -> str:
    """Say in one line what differs, where it starts, how much, how much is allowed, and why."""
    start = diagnosis.start
    likely = "" if diagnosis.is_certain else "likely "
    cause = f"{likely}cause: {diagnosis.cause} ({_shortened(diagnosis.evidence)})"
    if not _is_of_call(start):
        return f"golden drift: {start.label} {_change(start)}; {cause}"
    drifted = {drift.position for drift in comparison.failures if _is_of_call(drift)}
    within = "bits differ, within tolerance: " if _is_within_tolerance(comparison) else ""
    count = f"golden drift: {within}{len(drifted)} of {comparison.calls} calls"
    how_much = _how_much(golden, start, comparison)
    return f"{count}, starts {_where(start, diagnosis)} ({how_much}); {cause}"


def _is_half(golden: Run) -> bool:
    return golden.environment.dtype in ("float16", "bfloat16")


def _is_within_tolerance(comparison: Comparison) -> bool:
    """Tell whether a comparison fails only since every bit was to be equal."""
    limit = comparison.tolerance.rel
    return all(
        drift.kind == "values" and drift.allowed == 0 and drift.distance.rms <= limit
        for drift in comparison.failures
    )


def _where(start: Drift, diagnosis: Diagnosis) -> str:
    """Say where a drift starts: at a module, or in its own code, before one of its children."""
    where = f"at {start.label}"
    if diagnosis.where not in (start.path, "prompt", "generated"):
        where = f"in {diagnosis.where}, before {start.path.removeprefix(diagnosis.where + '.')}"
    return f"{where}, {diagnosis.class_count}" if diagnosis.class_count else where


def _how_much(golden: Run, start: Drift, comparison: Comparison) -> str:
    if start.kind != "values":
        return f"{start.kind} {_change(start)}"
    distance = start.distance
    if any(start is drift for drift in comparison.failures):
        token = worst_token(golden, start) if start.rel > distance.rms else ""
        at = f" at {token}" if token else ""
        return f"rel {size(start.rel)}{at}, allowed {size(start.allowed)}"
    over = next(drift for drift in comparison.failures if drift.kind == "values")
    return f"rel {size(distance.rms)}, over {size(over.allowed)} from {over.label} on"


def _exact_line(label: str, true: Distance) -> str:
    """Write the true drift of a tensor that was stored whole."""
    token = f", worst token {true.token} {true.worst:.6g}" if true.token is not None else ""
    return f"{label}: exactly rel {true.rms:.6g}{token} (stored tensor)"


def bits_line(comparison: Comparison) -> str:
    """Say in one line how far a run that matches is from equal bits."""
    bits = comparison.bits
    return (
        f"{bits.count} of {comparison.calls} calls, from {bits.first} on "
        f"(largest {size(comparison.noise)}, allowed {size(comparison.tolerance.rel)})"
    )


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
    return drift.kind not in ("ids", "tensors", "settings", "kind")


def _worst_first(comparison: Comparison) -> list[Drift]:
    """Sort failures: exact ones before values, large before small, early before late."""
    return sorted(
        comparison.failures,
        key=lambda drift: (drift.kind == "values", -drift.distance.worst, drift.position),
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


def _difference(golden: Run, drift: Drift) -> str:
    if drift.kind != "values":
        return f"{drift.label}: {drift.kind} {_change(drift)}"
    distance = drift.distance
    error = f" \u00b1{distance.error:.0%}" if distance.error else ""
    token = worst_token(golden, drift)
    of_token = distance.pooled if drift.rel == distance.pooled else distance.worst
    worst = f", worst {token} {size(of_token)}" if token else ""
    changed = f", {_change(drift)}" if drift.expected or drift.received else ""
    return f"{drift.label}: rel {size(distance.rms)}{error}{worst}{changed}"


def _change(drift: Drift) -> str:
    return f"{drift.expected or 'absent'} -> {drift.received or 'absent'}"
