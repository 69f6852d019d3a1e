"""Drifts -> where they start and why. Neither torch nor pytest is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_nnsight.compare import Comparison, Drift
from pytest_nnsight.run import Run

Fingerprints = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Where a drift starts and its cause.

    ``cause`` is one of prompt, tokenizer, weights, config, structure, settings, code, numerics;
    ``evidence`` is what it is concluded from.
    """

    start: Drift
    cause: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One failed comparison with a golden, for the report.

    ``error`` stands alone where there was nothing to compare; otherwise all the rest is there.
    """

    golden_file: str
    error: str = ""
    golden: Run | None = None
    received: Run | None = None
    comparison: Comparison | None = None
    golden_weights: dict[str, str] | None = None
    received_weights: dict[str, str] | None = None


def diagnose(
    golden: Run,
    received: Run,
    comparison: Comparison,
    golden_weights: Fingerprints | None = None,
    received_weights: Fingerprints | None = None,
) -> Diagnosis:
    """Say where the failures of ``comparison`` start and what caused them.

    ``golden_weights`` and ``received_weights`` are fingerprints per parameter, where known. The
    causes are tried from the outside in: what went into the model before what it is made of.
    """
    failures = comparison.failures
    start = _start(failures)
    for find in (_from_prompt, _from_settings):
        found = find(golden, received, failures)
        if found is not None:
            return Diagnosis(start, *found)
    config = changed_keys(golden.model.config, received.model.config)
    weights = _weights(golden, received, golden_weights, received_weights)
    reasons = []
    if config:
        reasons.append(("config", "; ".join(config[:3]) + (" ..." if len(config) > 3 else "")))
    if weights:
        reasons.append(("weights", weights))
    if reasons:
        return Diagnosis(
            start,
            " and ".join(cause for cause, _ in reasons),
            "; ".join(evidence for _, evidence in reasons),
        )
    if start.kind in ("missing", "added", "container", "class", "shape", "dtype"):
        return Diagnosis(
            start, "structure", _moved(golden, received) or "same weights, config and versions"
        )
    return Diagnosis(start, *_numerics_or_code(golden, received, comparison))


def _start(failures: tuple[Drift, ...]) -> Drift:
    """Return the earliest failure: inputs first, then calls in order, generated ids last."""
    order = {"kind": -3, "settings": -2}
    return min(
        failures,
        key=lambda drift: (
            order.get(drift.kind, -1 if drift.label == "prompt" else 0),
            drift.label == "generated",
            drift.position,
        ),
    )


def _from_prompt(golden: Run, received: Run, failures: tuple[Drift, ...]) -> tuple[str, str] | None:
    if not any(drift.kind == "ids" and drift.label == "prompt" for drift in failures):
        return None
    if golden.prompt.text is None or golden.prompt.text != received.prompt.text:
        return "prompt", "the test asks for another prompt than the golden's"
    return "tokenizer", "the same text gives other token ids"


def _from_settings(
    golden: Run, received: Run, failures: tuple[Drift, ...]
) -> tuple[str, str] | None:
    if not any(drift.kind in ("settings", "kind") for drift in failures):
        return None
    return "settings", "the test asks for something else than the golden's"


def _weights(
    golden: Run, received: Run, before: Fingerprints | None, now: Fingerprints | None
) -> str | None:
    """Say which parameters differ, or ``None`` where the weights are the same or unknown."""
    if golden.model.weights and golden.model.weights == received.model.weights:
        return None
    if not before or not now:
        if golden.model.weights and received.model.weights:
            return f"fingerprint {golden.model.weights} -> {received.model.weights}"
        return None
    differing = [name for name in now if name in before and before[name] != now[name]]
    gone = sorted(set(before) - set(now))
    new = sorted(set(now) - set(before))
    if not differing and not gone and not new:
        return None
    if not differing:
        return f"{len(gone)} parameters gone, {len(new)} new: {(gone + new)[0]}"
    which = differing[0] if len(differing) == 1 else f"{differing[0]}, ..."
    return f"{len(differing)} of {len(before)} parameters differ: {which}"


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the config keys with other values, ``key old -> new``.

    Keys that only one side has count where their value is set: libraries add unset keys freely.
    """
    changes = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new and key in before and key in now:
            changes.append(f"{prefix}{key} {_brief(old)} -> {_brief(new)}")
    return changes


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _moved(golden: Run, received: Run) -> str:
    """List the versions that differ, ``transformers 5.2.0 -> 5.23.0``."""
    before, now = golden.environment.versions, received.environment.versions
    return ", ".join(
        f"{name} {before.get(name, 'absent')} -> {now.get(name, 'absent')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    )


def _numerics_or_code(golden: Run, received: Run, comparison: Comparison) -> tuple[str, str]:
    """Weights and config are the same: other code, or other arithmetic."""
    old, new = golden.environment, received.environment
    arithmetic = [
        f"{name} {before} -> {now}"
        for name, before, now in (
            ("attention", old.attention, new.attention),
            ("device", old.device, new.device),
            ("dtype", old.dtype, new.dtype),
            ("threads", old.threads, new.threads),
            ("cpu", old.cpu, new.cpu),
        )
        if before != now
    ]
    moved = _moved(golden, received)
    largest = max((drift.rel for drift in comparison.failures), default=0.0)
    if arithmetic and largest <= 30 * comparison.tolerance:
        return "numerics", ", ".join(arithmetic)
    if moved:
        return "code", f"same weights and config; {moved}"
    if arithmetic:
        return "code or numerics", ", ".join(arithmetic)
    return "code", "same weights, config and versions: a patched module, a hook or an edit"
