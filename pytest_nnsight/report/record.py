"""Make the JSON record of one comparison with a golden; `docs/report.md` has its keys."""

from __future__ import annotations

from typing import Any

from pytest_nnsight.diagnose.diagnosis import Diagnosis, Finding
from pytest_nnsight.errors import visible
from pytest_nnsight.report.detail import environment_json
from pytest_nnsight.report.failure import bits_line
from pytest_nnsight.report.modules import drift_over_depth, module_rows, worst_modules
from pytest_nnsight.report.number_format import json_number
from pytest_nnsight.report.outcomes import DRIFT, ERROR, MISSING, NOISE, SAME, STRUCTURE

Record = dict[str, Any]
_STRUCTURAL = ("container", "shape", "dtype", "class", "order", "missing", "added")


def record_of_match(finding: Finding) -> Record:
    """Return the record of a run that matches its golden.

    Where it applies, ``differ`` names bits that differ though they should be equal, ``unchecked``
    says why bits were not compared, and ``tie`` names another token in a near tie.
    """
    comparison = finding.comparison
    assert comparison is not None
    assert finding.golden is not None
    assert finding.received is not None
    bits, divergence = comparison.bits, comparison.divergence
    record: Record = {
        "golden": finding.golden_file,
        "verdict": SAME if not bits.count and divergence is None else NOISE,
        "calls": comparison.calls,
        "bits": bits.count,
        "noise": json_number(comparison.noise),
        "allowed": json_number(comparison.tolerance.rel),
        "then": environment_json(finding.golden.environment),
        "now": environment_json(finding.received.environment),
    }
    if bits.count and bits.is_expected:
        record["differ"] = bits_line(comparison)
    if bits.reason:
        record["unchecked"] = bits.reason
    if divergence is not None:
        record["tie"] = divergence.closeness
    return record


def record_of_failure(finding: Finding, diagnosis: Diagnosis | None) -> Record:
    """Return the record of a run that does not match its golden, or has none."""
    record: Record = {"golden": finding.golden_file}
    if diagnosis is None or finding.comparison is None:
        verdict = MISSING if finding.error.startswith("no golden") else ERROR
        return {**record, "verdict": verdict}
    assert finding.golden is not None
    assert finding.received is not None
    start, failures = diagnosis.start, finding.comparison.failures
    is_structure = any(drift.kind in _STRUCTURAL for drift in failures)
    rows = module_rows(finding.golden, finding.received, finding.comparison)
    return {
        **record,
        "verdict": STRUCTURE if is_structure else DRIFT,
        "calls": finding.comparison.calls,
        "drifted": len({drift.position for drift in failures if drift.position >= 0}),
        "start": visible(start.label),
        "where": visible(diagnosis.where),
        "kind": start.kind,
        "rel": json_number(start.rel),
        "allowed": json_number(start.allowed),
        "change": visible(f"{start.expected or 'absent'} -> {start.received or 'absent'}"),
        "cause": diagnosis.cause,
        "is_certain": diagnosis.is_certain,
        "evidence": visible(diagnosis.evidence),
        "depth": drift_over_depth(rows),
        "worst": worst_modules(rows),
        "then": environment_json(finding.golden.environment),
        "now": environment_json(finding.received.environment),
    }
