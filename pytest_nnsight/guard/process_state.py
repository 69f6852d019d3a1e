"""What a test may leave changed for the whole process: functions, torch's settings, seeds."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.leak import Leak, Severity, listed

_Owner = type | ModuleType
_DYNAMO = str(Path(torch.__file__).with_name("_compile.py"))
_METHODS = (staticmethod, classmethod, property)
# Goldens record the number of threads.
_HARMLESS = ("grad mode", "number of threads", "anomaly detection")
# The name of a setting, how to read it, how to set it.
_SETTINGS: tuple[tuple[str, Callable[[], Any], Callable[[Any], Any]], ...] = (
    ("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    ("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("default device", torch.get_default_device, torch.set_default_device),
    ("number of threads", torch.get_num_threads, torch.set_num_threads),
    ("matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (
        "deterministic algorithms",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    ("anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
)


def snapshot_settings(_: Any) -> Iterator[Leak | None]:
    """Remember torch's settings."""
    before = [read() for _, read, _ in _SETTINGS]
    yield None
    for (name, read, write), value in zip(_SETTINGS, before, strict=True):
        if (now := read()) != value:
            write(value)
            severity = Severity.RESTORED if name in _HARMLESS else Severity.DISTRUST
            yield Leak(f"torch's {name} {now}, back to {value}", severity)


def snapshot_random_state(_: Any) -> Iterator[Leak | None]:
    """Remember the states of random generators; drawing numbers is not a leak."""
    python, numpy = random.getstate(), np.random.get_state()
    is_initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(range(torch.cuda.device_count()) if is_initialized else ()):
        yield None
    random.setstate(python)
    np.random.set_state(numpy)


def snapshot_patches(model: Any) -> Iterator[Leak | None]:
    """Remember the functions of torch and, unless ``model`` is ``None``, of a model's classes.

    These are `torch`, `torch.nn.functional`, `torch.Tensor`, the classes of the modules with their
    base classes, the Python modules that define them, and transformers' attention functions.
    """
    before = {owner: _functions(owner) for owner in _owners(model)}
    utils = sys.modules.get("transformers.modeling_utils")
    attention = getattr(utils, "ALL_ATTENTION_FUNCTIONS", {})
    registered = dict(attention)
    yield None
    patched = [
        f"{_name(owner)}.{name}"
        for owner, functions in before.items()
        for name in _restore(owner, functions)
    ]
    for name, function in registered.items():
        if attention.get(name) is not function:
            attention[name] = function
            patched.append(f"attention function {name!r}")
    if patched:
        yield Leak(f"{listed(patched)} replaced for all tests, restored")


def _owners(model: Any) -> list[_Owner]:
    modules = [] if model is None else nnsight_api.named_modules(model).values()
    classes = {cls for module in modules for cls in type(module).__mro__ if cls is not object}
    files = {sys.modules[cls.__module__] for cls in classes if cls.__module__ in sys.modules}
    modeling = {file for file in files if "modeling" in file.__name__}
    return [torch, torch.nn.functional, torch.Tensor, torch.nn.Module, *classes, *modeling]


def _functions(owner: _Owner) -> dict[str, Any]:
    """Return the functions of a module, or the methods and properties of a class."""
    values = vars(owner).items()
    if isinstance(owner, ModuleType):  # not its classes, some of which torch replaces
        return {n: value for n, value in values if callable(value) and not isinstance(value, type)}
    return {n: value for n, value in values if callable(value) or isinstance(value, _METHODS)}


def _restore(owner: _Owner, before: dict[str, Any]) -> list[str]:
    """Restore the functions of a module or class; return the names of those that had changed."""
    now = _functions(owner)
    names = [name for name, value in before.items() if now.get(name) is not value]
    if isinstance(owner, type):  # a new method may hide an inherited one
        inherited = {name for base in owner.__mro__[1:] for name in vars(base)}
        names += [name for name in now if name not in before and name in inherited]
    names = [name for name in names if not _is_of_library(now.get(name))]
    for name in names:
        setattr(owner, name, before[name]) if name in before else delattr(owner, name)
    return names


def _is_of_library(value: Any) -> bool:
    """Tell whether a function is one that nnsight or torch._dynamo sets on import."""
    file = getattr(getattr(value, "__code__", None), "co_filename", "")
    return file == _DYNAMO or nnsight_api.is_nnsight_code(value)


def _name(owner: _Owner) -> str:
    return f"{owner.__module__}.{owner.__qualname__}" if isinstance(owner, type) else owner.__name__
