"""The body of a remote trace: it runs where the model is, and turns values into numbers.

nnsight sends these functions, and all that they use, as source. NDIF's servers let such code import
torch, numpy and little more, and may run another Python: nothing here may use a dataclass, a cache
of ``functools``, ``weakref`` or ``hashlib``. What comes back are plain containers and a few
tensors, which need no class of ours to be read.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.weak import TensorWeakRef

from pytest_nnsight.capture.values import by_name, describe, margin_of, whole_numbers
from pytest_nnsight.nnsight_api.ndif import surroundings, tap
from pytest_nnsight.summary.statistics import STATISTICS, measurable, measure


def begin(model: Any, tracer: Any, plan: dict[str, Any]) -> dict[str, Any]:
    """Subscribe to the values that ``plan`` names, then intervene; return where numbers go."""
    found: dict[str, Any] = {
        "events": [],
        "tensors": [],
        "entered": None,
        "margins": [],
        "step": 0,
        "has_new_inputs": set(),
        "seen": {},
    }

    def receive(path: str, slot: str, value: Any) -> None:
        with torch.no_grad():
            _receive(found, plan, path, slot, value)

    if plan["seed"] is not None:
        torch.manual_seed(plan["seed"])
    tap(model, tracer, plan["outputs"], plan["inputs"], receive)
    if plan["intervene"] is not None:
        if plan["takes_tracer"]:
            plan["intervene"](model, tracer)
        else:
            plan["intervene"](model)
    return found


def end(model: Any, found: dict[str, Any], result: Any) -> dict[str, Any]:
    """Return what is sent back, once the model has run.

    The numbers of all tensors are put in two: statistics as float64, the rest as float32.
    """
    numbers = [item["numbers"] for item in found["tensors"] if item["numbers"] is not None]
    heads = [each[:STATISTICS].double().cpu() for each in numbers]
    rests = [each[STATISTICS:].float().cpu() for each in numbers]
    tensors = [
        (item["shape"], item["dtype"], item["tokens"], item["exact"]) for item in found["tensors"]
    ]
    ids = getattr(result, "sequences", result)
    return {
        "events": found["events"],
        "tensors": tensors,
        "heads": torch.stack(heads) if heads else None,
        "rests": torch.cat(rests) if rests else None,
        "entered": found["entered"],
        "margins": [margin.tolist() for margin in found["margins"]],
        "ids": ids.detach().cpu() if isinstance(ids, torch.Tensor) else None,
        "surroundings": surroundings(model),
    }


def _receive(found: dict[str, Any], plan: dict[str, Any], path: str, slot: str, value: Any) -> None:
    """Record one value as `Recorder.receive` does: its module, its structure, its tensors."""
    if slot == "inputs":
        arguments, keywords = value
        value = by_name(arguments, keywords, plan["parameters"][path])
        if not path and found["entered"] is None:
            found["entered"] = whole_numbers(value)
        is_early = found["step"] < plan["input_steps"]
        if not plan["captures_inputs"] or not (is_early or path in found["has_new_inputs"]):
            return
    elif not path:
        found["step"] += 1
        if (margin := margin_of(value)) is not None:
            found["margins"].append(margin)
    if path not in plan["captured"]:
        return
    structure, tensors = describe(value, "in" if slot == "inputs" else "out")
    known_tensors = len(found["tensors"])
    leaves = [(at, _index_of(found, tensor)) for at, tensor in tensors]
    if slot == "inputs" and len(found["tensors"]) > known_tensors:
        found["has_new_inputs"].add(path)
    found["events"].append((path, slot, structure, leaves))


def _index_of(found: dict[str, Any], tensor: torch.Tensor) -> int:
    """Return the index of a tensor; measure it unless it was seen before, unchanged."""
    version = -1 if tensor.is_inference() else tensor._version
    known = found["seen"].get(id(tensor))
    if known is not None and known[0]() is tensor and known[1] == version >= 0:
        return int(known[2])
    values, exact = measurable(tensor)
    item = {
        "shape": tuple(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "tokens": 0 if values is None else len(values),
        "numbers": None if values is None else measure([values[None]])[0],
        "exact": None if exact is None else exact.cpu().clone(),
    }
    found["tensors"].append(item)
    index = len(found["tensors"]) - 1
    found["seen"][id(tensor)] = (TensorWeakRef(tensor), version, index)
    return index
