"""Turn a dict of tensors that a test computed into a run that can be compared with a golden."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from pytest_nnsight.capture.values import describe, rebuild
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import Call, Environment, Leaf, ModelRecord, Prompt, Run
from pytest_nnsight.summary.summarizer import summarize


def run_of_tensors(values: Mapping[str, Any], model: ModelRecord, environment: Environment) -> Run:
    """Summarise ``{"name": tensor}`` as a run of kind ``tensors``, with one call for each name.

    Values may be tensors, numpy arrays, numbers, text, outputs of modules, and dicts and lists of
    them, whose items get names such as ``hidden.layers[3]``. Raise `UsageError` for an empty dict,
    for a name that is not text or is used twice, and for any other value.
    """
    if not values:
        raise UsageError("the dict of tensors is empty; there is nothing to compare")
    if wrong := [name for name in values if not isinstance(name, str)]:
        raise UsageError(f"the names of tensors must be text, got {wrong[0]!r}")
    named = [pair for name, value in values.items() for pair in _named(name, value)]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise UsageError(f"two values have the name {max(names, key=names.count)}; rename one")
    calls = tuple(_call(name, value) for name, value in named)
    return Run("tensors", model, environment, Prompt(), None, calls)


def _named(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the items of dicts and lists with their names; an empty one is itself a value.

    A module's output stays whole, so that a tuple can be compared with the tensor in it.
    """
    is_dict = isinstance(value, dict) and not hasattr(value, "__dataclass_fields__")
    if is_dict and value:
        for key, item in value.items():
            yield from _named(f"{name}.{key}" if isinstance(key, str) else f"{name}[{key}]", item)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _named(f"{name}[{index}]", item)
    else:
        yield name, value


def _call(name: str, value: Any) -> Call:
    structure, tensors = describe(_as_tensors(name, value))
    summaries = summarize(tensor for _, tensor in tensors)
    leaves = tuple(Leaf(at, summary) for (at, _), summary in zip(tensors, summaries, strict=True))
    return Call(name, 0, type(value).__name__, structure, leaves)


def _as_tensors(name: str, value: Any) -> Any:
    """Return a value with its numbers as tensors. Raise `UsageError` for other types."""
    if isinstance(value, torch.Tensor | str | Mapping):
        return value
    if isinstance(value, np.ndarray | np.generic | float | int | bool):
        return torch.as_tensor(np.asarray(value))
    if isinstance(value, list | tuple):
        items = enumerate(value)
        return rebuild(
            value, [v if v is None else _as_tensors(f"{name}[{i}]", v) for i, v in items]
        )
    raise UsageError(
        f"{name} is a {type(value).__name__}; a golden takes tensors, arrays, numbers, text and "
        "containers of them (was it saved inside the trace?)"
    )
