"""One comparison -> all that a page shows of it, as plain JSON; `docs/report.md` has the keys."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.model_changes import changed_config
from pytest_nnsight.compare.token_divergence import TokenDivergence
from pytest_nnsight.errors import visible
from pytest_nnsight.report.maps import token_maps
from pytest_nnsight.report.modules import columns, module_rows
from pytest_nnsight.report.number_format import plain
from pytest_nnsight.run import Environment, Run

_LONGEST_PROMPT = 2000  # characters


def detail(
    golden: Run, received: Run | None = None, comparison: Comparison | None = None
) -> dict[str, Any]:
    """Return what a page shows of two runs that were compared, or of one by itself."""
    return {
        "kind": golden.kind,
        "model": _model(golden),
        "prompt": _prompt(golden),
        "calls": comparison.calls if comparison is not None else len(golden.calls),
        "calibration": list(golden.calibration),
        "modules": columns(module_rows(golden, received, comparison)),
        "maps": token_maps(golden, comparison),
        "generated": _generated(golden, received, comparison.divergence if comparison else None),
        "config": changed_config(golden, received) if received is not None else [],
        "then": {**environment(golden.environment), **_model(golden)},
        "now": None
        if received is None
        else {**environment(received.environment), **_model(received)},
    }


def environment(environment: Environment) -> dict[str, Any]:
    """Return where a run was made."""
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
    """Return what was asked as text; of token ids, the texts of the tokens."""
    text: Any = run.prompt.text
    if text is None:
        text = ["".join(row) for row in run.prompt.pieces] or [
            list(r) for r in run.prompt.token_ids
        ]
        text = text[0] if len(text) == 1 else text
    told = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False, default=str)
    shown = told if len(told) <= _LONGEST_PROMPT else told[:_LONGEST_PROMPT] + " ..."
    return "\n".join(visible(line) for line in shown.splitlines())


def _generated(
    golden: Run, received: Run | None, divergence: TokenDivergence | None
) -> dict[str, Any] | None:
    """Return the new tokens of both runs, prompt by prompt, and where they part."""
    if golden.generated is None:
        return None
    found: dict[str, Any] = {
        "then": _tokens(golden),
        "now": _tokens(received) if received is not None and received.generated else None,
        "flip": None,
    }
    if divergence is not None:
        found["flip"] = {
            "row": divergence.batch_index,
            "step": divergence.step,
            "then": visible(divergence.expected),
            "now": visible(divergence.received),
            "margin": plain(divergence.margin),
            "noise": plain(divergence.noise),
            "is_near_tie": divergence.is_near_tie,
        }
    return found


def _tokens(run: Run) -> list[dict[str, Any]]:
    assert run.generated is not None
    made = run.generated
    rows = []
    for row, ids in enumerate(made.token_ids):
        pieces = made.pieces[row] if row < len(made.pieces) else ()
        margins = np.frombuffer(made.margins[row], "<f4") if row < len(made.margins) else ()
        shown = pieces if len(pieces) == len(ids) else [f"#{token}" for token in ids]
        rows.append(
            {
                "pieces": [visible(piece) for piece in shown],
                "margins": [plain(float(margin), 3) for margin in margins],
            }
        )
    return rows
