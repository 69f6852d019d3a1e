"""Describe a failed comparison: the verdict, the worst calls, the command to run next."""

from __future__ import annotations

import math
import re
from os.path import commonprefix

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.diagnose.diagnosis import Diagnosis, Finding, diagnose
from pytest_nnsight.errors import visible
from pytest_nnsight.report.tokens import worst_token
from pytest_nnsight.run import Run

MOST_ROWS = 20
LONGEST_EVIDENCE = 200
_LONGEST_CHANGE = 80  # characters of both containers, of which more than their difference is shown
PYTEST_LINES, PYTEST_CHARACTERS = 8, 640
"""The size that pytest shows of an assertion without -vv; it cuts off the lines after that."""
_HALF_TYPE_HINT = "half types drift far between kernels; --nnsight-dtype float32 is a sharper check"


def diagnose_finding(finding: Finding) -> Diagnosis | None:
    """Return the diagnosis of a failed comparison, ``None`` if there is none or it matches."""
    comparison, golden, received = finding.comparison, finding.golden, finding.received
    if comparison is None or comparison.matches or golden is None or received is None:
        return None
    return diagnose(golden, received, comparison, finding.golden_weights, finding.received_weights)


def failure_lines(
    finding: Finding, diagnosis: Diagnosis | None, refresh: str, detailed: bool
) -> list[str]:
    """Return the lines of a failed assertion, the verdict first.

    ``refresh`` is the command that rewrites the golden. Unless ``detailed``, the lines are so few
    that pytest shows all of them without -vv.
    """
    comparison, golden = finding.comparison, finding.golden
    if diagnosis is None or comparison is None or golden is None:
        return [visible(f"golden: {finding.error}")]
    first = verdict_line(golden, comparison, diagnosis)
    exact = [_exact_line(label, stored) for label, stored in finding.exact.items() if stored.worst]
    is_half = golden.environment.dtype in ("float16", "bfloat16")
    hints = [_HALF_TYPE_HINT] if is_half and diagnosis.cause == "numerics" else []
    last = [*hints, f"golden {finding.golden_file}", f"if this is right: {refresh}"]
    rows = [_difference(golden, drift) for drift in _worst_first(comparison)]
    if detailed:
        notes = [f"note: {_difference(golden, d)}" for d in comparison.drifts if d.note]
        rows = [*_at_most(rows, MOST_ROWS), *notes[:MOST_ROWS]]
    else:
        exact = exact[:1]
        rows = _fit(rows, [first, *exact, *last])
    return [visible(line) for line in (first, *exact, *rows, *last)]


def comparison_lines(finding: Finding, diagnosis: Diagnosis | None) -> list[str]:
    """Return the lines about two runs, neither of which is a golden; the verdict first.

    Missing and added calls are left out, since two models may differ in all of them.
    """
    comparison = finding.comparison
    assert comparison is not None
    assert finding.golden is not None
    if comparison.matches:
        same = f"same: {comparison.calls} calls, bit by bit"
        return [f"within noise: {bits_line(comparison)}" if comparison.bits.count else same]
    assert diagnosis is not None
    first = verdict_line(finding.golden, comparison, diagnosis).removeprefix("golden ")
    drifts = [d for d in _worst_first(comparison) if d.kind not in ("missing", "added")]
    rows = [_difference(finding.golden, drift) for drift in drifts]
    return [visible(line) for line in (first, *_at_most(rows, MOST_ROWS))]


def verdict_line(golden: Run, comparison: Comparison, diagnosis: Diagnosis) -> str:
    """Return one line: what differs, where it starts, its size, the allowed size, the cause."""
    start = diagnosis.start
    likely = "" if diagnosis.is_certain else "likely "
    evidence = diagnosis.evidence
    if len(evidence) > LONGEST_EVIDENCE:
        evidence = evidence[: LONGEST_EVIDENCE - 3] + "..."
    cause = f"{likely}cause: {diagnosis.cause} ({evidence})"
    if not _is_call(start):
        return f"golden drift: {start.label} {change_of(start)}; {cause}"
    drifted = {drift.position for drift in comparison.failures if _is_call(drift)}
    limit = comparison.tolerance.rel
    is_within = all(  # it fails only because every bit had to be equal
        drift.kind == "values" and drift.allowed == 0 and drift.distance.rms <= limit
        for drift in comparison.failures
    )
    within = "bits differ, within tolerance: " if is_within else ""
    what = f"drift: {within}"
    if comparison.structural_changes:
        equal = "within tolerance" if comparison.bits.count else "equal"
        what = f"structure changed, all values {equal}: "
    count = f"golden {what}{len(drifted)} of {comparison.calls} calls"
    how_much = _how_much(golden, start, comparison)
    return f"{count}, starts {_where(start, diagnosis)} ({how_much}); {cause}"


def _where(start: Drift, diagnosis: Diagnosis) -> str:
    """Return ``at`` a module, or ``in`` a module whose own code runs ``before`` a child."""
    where = f"at {start.label}"
    if diagnosis.where not in (start.path, "prompt", "generated"):
        where = f"in {diagnosis.where}, before {start.path.removeprefix(diagnosis.where + '.')}"
    return f"{where}, {diagnosis.class_count}" if diagnosis.class_count else where


def _how_much(golden: Run, start: Drift, comparison: Comparison) -> str:
    if start.kind != "values":
        return f"{start.kind} {change_of(start)}"
    distance = start.distance
    if any(start is drift for drift in comparison.failures):
        token = worst_token(golden, start) if start.rel > distance.rms else ""
        at = f" at {token}" if token else ""
        return f"rel {format_size(start.rel)}{at}, allowed {format_size(start.allowed)}"
    over = next(drift for drift in comparison.failures if drift.kind == "values")
    return f"rel {format_size(distance.rms)}, over {format_size(over.allowed)} from {over.label} on"


def _exact_line(label: str, true: Distance) -> str:
    """Return the true drift of a tensor that the golden stores in full."""
    token = f", worst token {true.token} {true.worst:.6g}" if true.token is not None else ""
    return f"{label}: exactly rel {true.rms:.6g}{token} (stored tensor)"


def bits_line(comparison: Comparison) -> str:
    """Return one line about a run that matches, but not bit by bit."""
    bits, allowed = comparison.bits, format_size(comparison.tolerance.rel)
    sizes = f"largest {format_size(comparison.noise)}, allowed {allowed}"
    return f"{bits.count} of {comparison.calls} calls, from {bits.first} on ({sizes})"


def format_size(rel: float) -> str:
    """Return a relative drift as short text: ``0.21``, ``4.9e-3``, ``1e-5``, ``inf``."""
    if math.isinf(rel) or rel == 0:
        return "inf" if rel else "0"
    if rel >= 0.01:
        return f"{rel:.3g}" if rel >= 100 else f"{rel:.2g}"
    mantissa, exponent = f"{rel:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _is_call(drift: Drift) -> bool:
    return drift.kind not in ("ids", "tensors", "settings", "kind")


def _worst_first(comparison: Comparison) -> list[Drift]:
    """Return the failures: other structure first, then large drifts before small ones."""
    return sorted(
        comparison.failures,
        key=lambda drift: (drift.kind == "values", -drift.distance.worst, drift.position),
    )


def _at_most(rows: list[str], limit: int, hint: str = "") -> list[str]:
    rest = len(rows) - limit
    return rows if rest <= 0 else [*rows[:limit], f"... and {rest} more, smaller{hint}"]


def _fit(rows: list[str], others: list[str]) -> list[str]:
    """Return as many rows as pytest shows together with the ``others``."""
    for count in range(len(rows), 0, -1):
        shown = _at_most(rows, count, " (-vv)")
        lines = [*others, *shown]
        if len(lines) <= PYTEST_LINES and sum(map(len, lines)) <= PYTEST_CHARACTERS:
            return shown
    return []


def _difference(golden: Run, drift: Drift) -> str:
    if drift.kind == "padding":
        size = format_size(drift.distance.worst)
        return f"padded positions differ, not compared (largest rel {size}, first {drift.label})"
    if drift.kind == "mask":
        return f"{drift.label}: mask in another form ({change_of(drift)}), compared by meaning"
    if drift.kind != "values":
        return f"{drift.label}: {drift.kind} {change_of(drift)}"
    distance = drift.distance
    error = f" \u00b1{distance.error:.0%}" if distance.error else ""
    token = worst_token(golden, drift)
    largest = distance.pooled if drift.rel == distance.pooled else distance.worst
    worst = f", worst {token} {format_size(largest)}" if token else ""
    changed = f", {change_of(drift)}" if drift.expected or drift.received else ""
    return f"{drift.label}: rel {format_size(distance.rms)}{error}{worst}{changed}"


def change_of(drift: Drift) -> str:
    """Return what the golden has and what the run has instead: ``tensor -> absent``.

    Of containers that differ in one name, or that are long, return only the part that differs:
    ``past_key_values -> cache``.
    """
    both = [drift.expected, drift.received]
    if drift.kind == "container" and drift.is_structural:
        words = [re.findall(r"\w+|\W", text) for text in both]
        start = len(commonprefix(words))  # noqa: RUF071  # of words, not characters
        end = len(commonprefix([part[start:][::-1] for part in words]))  # noqa: RUF071  # as above
        parts = ["".join(part[start : len(part) - end]).strip(", ") for part in words]
        is_long = len(drift.expected + drift.received) > _LONGEST_CHANGE
        are_names = all(part.isidentifier() and part not in ("None", "tensor") for part in parts)
        both = parts if is_long or are_names else both
    return f"{both[0] or 'absent'} -> {both[1] or 'absent'}"
