"""A test's own dict of tensors -> a run that can be compared with a golden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pytest_nnsight.capture.values import describe, rebuild
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import Call, Environment, Leaf, ModelRecord, Prompt, Run
from pytest_nnsight.sketch import collect, measure


def run_of_tensors(values: Mapping[str, Any], model: ModelRecord, environment: Environment) -> Run:
    """Summarise ``{"name": tensor}`` as a run of kind ``tensors``, one call a name.

    Values may be tensors, numpy arrays, numbers, or containers of them.
    """
    if not values:
        raise UsageError("the dict of tensors is empty; there is nothing to compare")
    calls = [_call(name, value) for name, value in values.items()]
    return Run("tensors", model, environment, Prompt(), None, tuple(calls))


def _call(name: Any, value: Any) -> Call:
    if not isinstance(name, str):
        raise UsageError(f"the names of tensors are text, got {name!r}")
    structure, tensors = describe(_as_tensors(name, value))
    summaries = collect([measure(tensor) for _, tensor in tensors])
    leaves = tuple(Leaf(at, summary) for (at, _), summary in zip(tensors, summaries, strict=True))
    return Call(name, 0, type(value).__name__, structure, leaves)


def _as_tensors(name: str, value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic | float | int | bool):
        return torch.as_tensor(np.asarray(value))
    if isinstance(value, Mapping):
        return {key: _as_tensors(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return rebuild(value, [_as_tensors(f"{name}[{i}]", v) for i, v in enumerate(value)])
    raise UsageError(
        f"{name} is a {type(value).__name__}; a golden takes tensors, arrays, numbers and "
        "containers of them (was it saved inside the trace?)"
    )
