"""Collect everything that the page shows about one comparison, as JSON.

`docs/report.md` describes the keys.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.model_changes import changed_config
from pytest_nnsight.compare.token_divergence import TokenDivergence
from pytest_nnsight.errors import visible
from pytest_nnsight.report.maps import token_maps
from pytest_nnsight.report.modules import module_columns, module_rows
from pytest_nnsight.report.number_format import json_number
from pytest_nnsight.run import Environment, Run

_LONGEST_PROMPT = 2000  # characters


def build_detail(
    golden: Run, received: Run | None = None, comparison: Comparison | None = None
) -> dict[str, Any]:
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
        "then": {**environment_json(golden.environment), **_model(golden)},
        "now": None
        if received is None
        else {**environment_json(received.environment), **_model(received)},
    }


def environment_json(environment: Environment) -> dict[str, Any]:
    """Return the environment of a run as JSON."""
    return {
        "versions": dict(environment.versions),
        "device": environment.device,
        "dtype": environment.dtype,
        "attention": environment.attention,
        "threads": environment.threads,
        "cpu": environment.cpu,
        "kernels": environment.kernels,
    }


def _model(run: Run) -> dict[str, Any]:
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
    is_text = isinstance(prompt, str)
    text = prompt if is_text else json.dumps(prompt, ensure_ascii=False, default=str)
    shown = text if len(text) <= _LONGEST_PROMPT else text[:_LONGEST_PROMPT] + " ..."
    return "\n".join(visible(line) for line in shown.splitlines())


def _generated(
    golden: Run, received: Run | None, divergence: TokenDivergence | None
) -> dict[str, Any] | None:
    """Return the generated tokens of both runs by prompt, and the first one that differs."""
    if golden.generated is None:
        return None
    flip = None
    if divergence is not None:
        flip = {
            "row": divergence.batch_index,
            "step": divergence.step,
            "then": visible(divergence.expected),
            "now": visible(divergence.received),
            "margin": json_number(divergence.margin),
            "noise": json_number(divergence.noise),
            "is_near_tie": divergence.is_near_tie,
        }
    now = _tokens(received) if received is not None and received.generated else None
    return {"then": _tokens(golden), "now": now, "flip": flip}


def _tokens(run: Run) -> list[dict[str, Any]]:
    """Return texts and logit margins of the generated tokens, one entry for each prompt."""
    assert run.generated is not None
    generated, prompts = run.generated, []
    for index, ids in enumerate(generated.token_ids):
        pieces = generated.pieces[index] if index < len(generated.pieces) else ()
        packed = generated.margins[index] if index < len(generated.margins) else b""
        texts = pieces if len(pieces) == len(ids) else [f"#{token}" for token in ids]
        margins = [json_number(float(margin), 3) for margin in np.frombuffer(packed, "<f4")]
        prompts.append({"pieces": [*map(visible, texts)], "margins": margins})
    return prompts
