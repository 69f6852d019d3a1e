"""The body of a remote trace: it runs on the server, and measures the values there.

nnsight sends these functions, and all that they use, as source. NDIF's servers let such code import
torch, numpy and little more, and may run another Python: nothing here may use a dataclass, a cache
of ``functools``, ``weakref`` or ``hashlib``. The result is plain containers and a few tensors,
which can be read without classes of this package.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.weak import TensorWeakRef

from pytest_nnsight.capture.values import by_name, describe, logit_margin, whole_numbers
from pytest_nnsight.nnsight_api.ndif import server_environment
from pytest_nnsight.nnsight_api.subscription import observe_cache
from pytest_nnsight.summary.statistics import STATISTICS, measurable, measure, row_numbers


def begin(model: Any, tracer: Any, plan: dict[str, Any]) -> dict[str, Any]:
    """Subscribe to the values that ``plan`` names, then intervene; return the state of the run."""
    state: dict[str, Any] = {"events": [], "tensors": [], "margins": [], "seen": {}}
    state |= {"entered": None, "step": 0, "has_new_inputs": set()}

    def receive(path: str, slot: str, value: Any) -> None:
        with torch.no_grad():
            _receive(state, plan, path, slot, value)

    if plan["seed"] is not None:
        torch.manual_seed(plan["seed"])
    observe_cache(model, tracer, plan["outputs"], plan["inputs"], receive)
    if plan["intervene"] is not None:
        plan["intervene"](*(model, tracer)[: plan["parameter_count"]])
    return state


def end(model: Any, state: dict[str, Any], result: Any) -> dict[str, Any]:
    """Return the result that is sent to the client, once the model has run.

    All tensors together have two tensors of numbers: ``heads [tensors, 9]`` with their statistics
    as float64, and ``rests`` with their norms and projections as float32.
    """
    numbers = [item["numbers"] for item in state["tensors"] if item["numbers"] is not None]
    heads = [each[:STATISTICS].double().cpu() for each in numbers]
    rests = [each[STATISTICS:].float().cpu() for each in numbers]
    tensors = [
        (item["shape"], item["dtype"], item["tokens"], item["exact"], item["rows"])
        for item in state["tensors"]
    ]
    ids = getattr(result, "sequences", result)
    return {
        "events": state["events"],
        "tensors": tensors,
        "heads": torch.stack(heads) if heads else None,
        "rests": torch.cat(rests) if rests else None,
        "entered": state["entered"],
        "margins": [margin.tolist() for margin in state["margins"]],
        "ids": ids.detach().cpu() if isinstance(ids, torch.Tensor) else None,
        "environment": server_environment(model),
    }


def _receive(state: dict[str, Any], plan: dict[str, Any], path: str, slot: str, value: Any) -> None:
    """Record one value as `Recorder.receive` does: its module, its structure, its tensors."""
    if slot == "inputs":
        arguments, keywords = value
        value = by_name(arguments, keywords, plan["parameters"][path])
        if not path and state["entered"] is None:
            state["entered"] = whole_numbers(value)
        if state["step"] >= plan["input_steps"] and path not in state["has_new_inputs"]:
            return
    elif not path:
        state["step"] += 1
        if (margin := logit_margin(value)) is not None:
            state["margins"].append(margin)
    if path not in plan["captured"]:
        return
    structure, tensors = describe(value, "in" if slot == "inputs" else "out")
    count_before = len(state["tensors"])
    leaves = [(at, _index_of(state, tensor, "mask" in at)) for at, tensor in tensors]
    if slot == "inputs" and len(state["tensors"]) > count_before:
        state["has_new_inputs"].add(path)
    state["events"].append((path, slot, structure, leaves))


def _index_of(state: dict[str, Any], tensor: torch.Tensor, is_mask: bool) -> int:
    """Return the index of a tensor; measure it unless it was seen before, unchanged."""
    version = -1 if tensor.is_inference() else tensor._version
    seen = state["seen"].get(id(tensor))
    if seen is not None and seen[0]() is tensor and seen[1] == version >= 0:
        return int(seen[2])
    values, exact = measurable(tensor)
    rows = None
    if is_mask or exact is not None:
        rows = row_numbers(tensor, is_mask or (tensor.dtype is torch.bool and tensor.ndim == 4))
    item = {
        "shape": tuple(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "tokens": 0 if values is None else len(values),
        "numbers": None if values is None else measure([values[None]])[0],
        "exact": None if exact is None else exact.cpu().clone(),
        "rows": None if rows is None else rows.cpu(),
    }
    state["tensors"].append(item)
    index = len(state["tensors"]) - 1
    state["seen"][id(tensor)] = (TensorWeakRef(tensor), version, index)
    return index
