"""Functions and methods of torch and transformers that a test replaced for the whole process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.leak import Leak, Restore, Severity, listed

Owner = type | ModuleType


def snapshot_patches(model: Any) -> Restore:
    """Remember the callables of torch, and of the classes of a model's modules where there is one.

    Looked at are `torch`, `torch.nn.functional`, `torch.Tensor`, the classes of the modules with
    their base classes, the Python modules that define them, and transformers' attention functions.
    """
    modules = [] if model is None else [*nnsight_api.named_modules(model).values()]
    before = {owner: _callables(owner) for owner in _owners(modules)}
    attention = _attention_functions()
    registered = dict(attention)

    def restore() -> Iterator[Leak]:
        patched = [
            f"{_name(owner)}.{name}"
            for owner, callables in before.items()
            for name in _restore_owner(owner, callables)
        ]
        for name, function in registered.items():
            if attention.get(name) is not function:
                attention[name] = function
                patched.append(f"attention function {name!r}")
        if patched:
            yield Leak(f"{listed(patched)} replaced for all tests, restored", Severity.DISTRUST)

    return restore


def _owners(modules: list[torch.nn.Module]) -> list[Owner]:
    classes = {cls for module in modules for cls in type(module).__mro__ if cls is not object}
    files = {sys.modules[cls.__module__] for cls in classes if cls.__module__ in sys.modules}
    own = {file for file in files if "modeling" in file.__name__}
    return [torch, torch.nn.functional, torch.Tensor, torch.nn.Module, *classes, *own]


def _callables(owner: Owner) -> dict[str, Any]:
    """Return the functions of a module, or the methods and properties of a class."""
    if isinstance(owner, ModuleType):  # torch itself replaces some of its classes
        return {n: value for n, value in vars(owner).items() if _is_function(value)}
    methods = (staticmethod, classmethod, property)
    return {n: v for n, v in vars(owner).items() if callable(v) or isinstance(v, methods)}


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _restore_owner(owner: Owner, before: dict[str, Any]) -> list[str]:
    """Restore the callables of one module or class; return the names of those that differed."""
    now = _callables(owner)
    changed = [name for name, value in before.items() if now.get(name) is not value]
    changed = [name for name in changed if not _is_of_library(now.get(name))]
    for name in changed:
        setattr(owner, name, before[name])
    if isinstance(owner, ModuleType):
        return changed
    bases = owner.__mro__[1:]  # a new method may hide one of these
    new = [name for name in now.keys() - before.keys() if not _is_of_library(now[name])]
    added = [name for name in new if any(name in vars(base) for base in bases)]
    for name in added:
        delattr(owner, name)
    return changed + added


def _is_of_library(value: Any) -> bool:
    """Tell whether a function is what nnsight or torch._dynamo sets on import."""
    code = getattr(value, "__code__", None)
    parts = Path(getattr(code, "co_filename", "")).parts
    return "nnsight" in parts or parts[-2:] == ("torch", "_compile.py")


def _attention_functions() -> Any:
    utils = sys.modules.get("transformers.modeling_utils")
    return getattr(utils, "ALL_ATTENTION_FUNCTIONS", {})


def _name(owner: Owner) -> str:
    names = (getattr(owner, "__module__", ""), getattr(owner, "__qualname__", owner.__name__))
    return ".".join(filter(None, names))
