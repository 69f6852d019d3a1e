"""Find the torch modules of an nnsight model by path, and nnsight's envoys of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch


def torch_module(model: Any) -> torch.nn.Module:
    """Return the torch module that an nnsight model wraps."""
    module: torch.nn.Module = model._module
    return module


def compute_device(parameters: Iterable[torch.nn.Parameter]) -> str:
    """Return the accelerator that holds any weights, else cpu; offloaded weights are on meta."""
    found = {parameter.device.type for parameter in parameters} - {"meta", "cpu"}
    return min(found, default="cpu")


def is_copy(model: Any, other: Any) -> bool:
    """Tell whether both are nnsight models of the very same torch module, as edited copies are."""
    return getattr(model, "_module", None) is torch_module(other)


def named_modules(model: Any) -> dict[str, torch.nn.Module]:
    """Return the torch modules by path (the empty string for the model), without nnsight's own."""
    return {
        path: module
        for path, module in torch_module(model).named_modules()
        if not type(module).__module__.startswith("nnsight.")
    }


def torch_paths(model: Any) -> dict[str, str]:
    """Map nnsight's module paths to torch's (the empty string for the model itself)."""
    paths = {id(module): path for path, module in named_modules(model).items()}
    return {
        envoy.path: paths[id(envoy._module)]
        for envoy in model.modules()
        if id(envoy._module) in paths
    }


def envoys(model: Any, paths: dict[str, str], selected: Sequence[str]) -> list[Any]:
    """Return nnsight's envoys of the modules at the ``selected`` torch paths.

    ``paths`` is the result of `torch_paths`. There is one envoy for each module, because nnsight
    0.7 reports a module that has several names once for each name.
    """
    wanted = set(selected)
    found = [envoy for envoy in model.modules() if paths.get(envoy.path) in wanted]
    return list({id(envoy._module): envoy for envoy in found}.values())
