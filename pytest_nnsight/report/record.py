"""Make the JSON of one comparison with a golden; `docs/report.md` has its keys."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.model_changes import changed_config, changed_versions
from pytest_nnsight.compare.token_divergence import TokenDivergence
from pytest_nnsight.diagnose.diagnosis import Diagnosis, Finding
from pytest_nnsight.errors import visible
from pytest_nnsight.report.failure import bits_line, change_of
from pytest_nnsight.report.maps import token_maps
from pytest_nnsight.report.modules import (
    drift_over_depth,
    json_number,
    module_columns,
    module_rows,
    worst_modules,
)
from pytest_nnsight.report.outcomes import DRIFT, ERROR, MISSING, NOISE, SAME, STRUCTURE
from pytest_nnsight.run import Run

Record = dict[str, Any]
_LONGEST_PROMPT = 2000  # characters


def record_of_match(finding: Finding) -> Record:
    """Return the record of a run that matches its golden.

    Where it applies, ``differ`` names bits that differ though they should be equal, ``unchecked``
    says why bits were not compared, ``tie`` names another token in a near tie, and ``structure``
    holds accepted changes of the structure.
    """
    golden, received, comparison = finding.golden, finding.received, finding.comparison
    assert golden is not None
    assert received is not None
    assert comparison is not None
    bits, divergence = comparison.bits, comparison.divergence
    record: Record = {
        "golden": finding.golden_file,
        "verdict": SAME if not bits.count and divergence is None else NOISE,
        "calls": comparison.calls,
        "bits": bits.count,
        "noise": json_number(comparison.noise),
        "allowed": json_number(comparison.tolerance.rel),
        "then": asdict(golden.environment),
        "now": asdict(received.environment),
    }
    if bits.count and bits.is_expected:
        record["differ"] = bits_line(comparison)
    if bits.reason:
        record["unchecked"] = bits.reason
    if divergence is not None:
        record["tie"] = divergence.closeness
    return {**record, **_structure(golden, received, comparison)}


def record_of_failure(finding: Finding, diagnosis: Diagnosis | None) -> Record:
    """Return the record of a run that does not match its golden, or has none."""
    golden, received, comparison = finding.golden, finding.received, finding.comparison
    if diagnosis is None or golden is None or received is None or comparison is None:
        verdict = MISSING if finding.error.startswith("no golden") else ERROR
        return {"golden": finding.golden_file, "verdict": verdict}
    start, failures = diagnosis.start, comparison.failures
    rows = module_rows(golden, received, comparison)
    return {
        **_structure(golden, received, comparison),
        "golden": finding.golden_file,
        "verdict": STRUCTURE if comparison.structural_changes else DRIFT,
        "calls": comparison.calls,
        "drifted": len({drift.position for drift in failures if drift.position >= 0}),
        "start": visible(start.label),
        "where": visible(diagnosis.where),
        "kind": start.kind,
        "rel": json_number(start.rel),
        "allowed": json_number(start.allowed),
        "change": visible(change_of(start)),
        "cause": diagnosis.cause,
        "is_certain": diagnosis.is_certain,
        "evidence": visible(diagnosis.evidence),
        "depth": drift_over_depth(rows),
        "worst": worst_modules(rows),
        "then": asdict(golden.environment),
        "now": asdict(received.environment),
    }


def _structure(golden: Run, received: Run, comparison: Comparison) -> Record:
    """Return the structural changes, each with its first call; nothing if values differ too."""
    found: dict[str, str] = {}
    for drift in comparison.structural_changes:
        found.setdefault(visible(f"{drift.kind} {change_of(drift)}"), visible(drift.label))
    evidence = changed_versions(golden, received) or "same versions"
    return {"structure": found, "evidence": visible(evidence)} if found else {}


def build_detail(
    golden: Run, received: Run | None = None, comparison: Comparison | None = None
) -> Record:
    """Return what the page shows about two compared runs, or about a golden alone."""
    return {
        "kind": golden.kind,
        "model": _model(golden),
        "prompt": _prompt(golden),
        "calls": comparison.calls if comparison is not None else len(golden.calls),
        "calibration": list(golden.calibration),
        "modules": module_columns(module_rows(golden, received, comparison)),
        "maps": token_maps(golden, comparison),
        "generated": _generated(golden, received, comparison.divergence if comparison else None),
        "config": changed_config(golden, received) if received is not None else [],
        "then": {**asdict(golden.environment), **_model(golden)},
        "now": received and {**asdict(received.environment), **_model(received)},
    }


def _model(run: Run) -> Record:
    model = run.model
    return {
        "spec": visible(model.spec),
        "revision": model.revision,
        "class": visible(model.model_class),
        "parameters": model.parameters,
        "weights": model.weights,
    }


def _prompt(run: Run) -> str:
    """Return the prompt as text; of token ids, the texts of the tokens if they are known."""
    prompt: Any = run.prompt.text
    if prompt is None:
        texts = ["".join(pieces) for pieces in run.prompt.pieces]
        prompt = texts or [list(ids) for ids in run.prompt.token_ids]
        prompt = prompt[0] if len(prompt) == 1 else prompt
    if not isinstance(prompt, str):
        prompt = json.dumps(prompt, ensure_ascii=False, default=str)
    shown = prompt if len(prompt) <= _LONGEST_PROMPT else prompt[:_LONGEST_PROMPT] + " ..."
    return "\n".join(visible(line) for line in shown.splitlines())


def _generated(
    golden: Run, received: Run | None, divergence: TokenDivergence | None
) -> Record | None:
    """Return the generated tokens of both runs by prompt, and the first one that differs."""
    if golden.generated is None:
        return None
    flip = divergence and {
        "row": divergence.batch_index,
        "step": divergence.step,
        "then": visible(divergence.expected),
        "now": visible(divergence.received),
        "margin": json_number(divergence.margin),
        "noise": json_number(divergence.noise),
        "is_near_tie": divergence.is_near_tie,
    }
    return {"then": _tokens(golden), "now": _tokens(received), "flip": flip}


def _tokens(run: Run | None) -> list[Record] | None:
    """Return texts and logit margins of the generated tokens, one entry for each prompt."""
    if run is None or run.generated is None:
        return None
    generated, prompts = run.generated, []
    for index, ids in enumerate(generated.token_ids):
        pieces = generated.pieces[index] if index < len(generated.pieces) else ()
        packed = generated.margins[index] if index < len(generated.margins) else b""
        texts = pieces if len(pieces) == len(ids) else [f"#{token}" for token in ids]
        margins = [json_number(float(margin), 3) for margin in np.frombuffer(packed, "<f4")]
        prompts.append({"pieces": [*map(visible, texts)], "margins": margins})
    return prompts
