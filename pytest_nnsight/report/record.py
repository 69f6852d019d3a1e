"""One comparison with a golden -> what a report keeps of it, as plain JSON."""

from __future__ import annotations

from typing import Any

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.diagnose.diagnosis import Diagnosis, Finding
from pytest_nnsight.errors import visible
from pytest_nnsight.outcomes import DRIFT, ERROR, MISSING, NOISE, SAME, STRUCTURE
from pytest_nnsight.run import Environment

Record = dict[str, Any]


def record_of_match(golden: str, comparison: Comparison) -> Record:
    """Return the record of a run that matched its golden."""
    is_same = not comparison.bits.count and comparison.flip is None
    return {
        "golden": golden,
        "verdict": SAME if is_same else NOISE,
        "calls": comparison.calls,
        "bits": comparison.bits.count,
        "noise": comparison.noise,
        "allowed": comparison.tolerance.rel,
    }


def record_of_failure(finding: Finding, diagnosis: Diagnosis | None, line: str) -> Record:
    """Return the record of a run that did not match; ``line`` is its verdict."""
    record: Record = {"golden": finding.golden_file, "line": line}
    if diagnosis is None or finding.comparison is None:
        verdict = MISSING if finding.error.startswith("no golden") else ERROR
        return {**record, "verdict": verdict}
    assert finding.golden is not None
    assert finding.received is not None
    start, failures = diagnosis.start, finding.comparison.failures
    is_structure = any(drift.kind in _STRUCTURAL for drift in failures)
    return {
        **record,
        "verdict": STRUCTURE if is_structure else DRIFT,
        "calls": finding.comparison.calls,
        "drifted": len({drift.position for drift in failures if drift.position >= 0}),
        "start": visible(start.label),
        "where": visible(diagnosis.where),
        "kind": start.kind,
        "rel": start.rel,
        "allowed": start.allowed,
        "change": visible(f"{start.expected} -> {start.received}") if start.expected else "",
        "cause": diagnosis.cause,
        "is_certain": diagnosis.is_certain,
        "evidence": visible(diagnosis.evidence),
        "then": _plain(finding.golden.environment),
        "now": _plain(finding.received.environment),
    }


_STRUCTURAL = ("container", "shape", "dtype", "class", "order", "missing", "added")


def _plain(environment: Environment) -> Record:
    return {
        "versions": dict(environment.versions),
        "device": environment.device,
        "dtype": environment.dtype,
        "attention": environment.attention,
        "threads": environment.threads,
    }
