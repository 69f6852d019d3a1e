"""Loaded model -> what a golden says about it: class, config, device, dtype, versions."""

from __future__ import annotations

import hashlib
import math
import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.errors import hide_home
from pytest_nnsight.models.spec import ModelSpec
from pytest_nnsight.run import Environment, ModelRecord

PACKAGES = ("torch", "transformers", "nnsight", "accelerate", "tokenizers", "numpy")
# Where it was saved and by which release says nothing about what it computes.
_LEFT_OUT = (
    "_name_or_path",
    "_model_name_or_path",
    "_commit_hash",
    "transformers_version",
    "architectures",
    "base_model_name_or_path",
    "peft_version",
    "dtype",
    "torch_dtype",
)
_PRIVATE = ("secret", "password", "api_key", "auth_token")


def identify(model: Any, spec: ModelSpec | None) -> tuple[ModelRecord, Environment]:
    """Describe a loaded model and the machine; ``spec`` is ``None`` for a user's own model."""
    module = nnsight_api.torch_module(model)
    parameters = dict(module.named_parameters())  # once: it walks all modules
    config = getattr(module, "config", None)
    record = ModelRecord(
        spec=spec.public if spec else type(module).__name__,
        model_class=type(module).__name__,
        config=plain_config(config) | _adapters(module),
        revision=spec.revision if spec else None,
        parameters=sum(parameter.numel() for parameter in parameters.values()),
        modules=_module_settings(nnsight_api.named_modules(model)),
        generation=_generation(module),
    )
    environment = Environment(
        versions=_versions(),
        device="meta" if nnsight_api.is_skeleton(model) else _device(parameters.values()),
        dtype=_dtype(parameters.values()),
        attention=str(getattr(config, "_attn_implementation", None) or "none"),
        threads=torch.get_num_threads(),
        cpu=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {_cpu_name()}".strip(),
        kernels=", ".join(filter(None, [_kernels(), _layout(parameters)])),
    )
    return record, environment


def _module_settings(modules: Mapping[str, torch.nn.Module]) -> dict[str, dict[str, int]]:
    """Count the modules of each class by what torch prints of them, and by training mode.

    An epsilon or a dropout shows here even where no config says so.
    """
    counts: dict[str, Counter[str]] = {}
    for module in modules.values():
        text = module.extra_repr() + (" (training)" if module.training else "")
        counts.setdefault(type(module).__name__, Counter())[text] += 1
    return {name: dict(sorted(texts.items())) for name, texts in sorted(counts.items())}


def _generation(module: torch.nn.Module) -> dict[str, Any]:
    """Return the checkpoint's own settings for generating, where they are not the defaults."""
    config = getattr(module, "generation_config", None)
    if config is None:
        return {}
    return {
        key: _plain(value)
        for key, value in sorted(config.to_diff_dict().items())
        if key not in _LEFT_OUT and not key.startswith("_") and not _is_private(key)
    }


def _adapters(module: torch.nn.Module) -> dict[str, Any]:
    """Return the settings of peft's adapters, without those that are off: releases add such."""
    found = getattr(module, "peft_config", None)
    if not isinstance(found, Mapping):
        return {}
    settings = {name: plain_config(config) for name, config in found.items()}
    return {"adapters": {n: {k: v for k, v in of.items() if v} for n, of in settings.items()}}


def _kernels() -> str:
    """Say what chooses between kernels of one operation, where it is not as torch sets it."""
    backends = torch.backends
    told = {
        "no oneDNN": not backends.mkldnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        f"matmul {torch.get_float32_matmul_precision()}": (
            torch.get_float32_matmul_precision() != "highest"
        ),
        "no flash attention": not backends.cuda.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
        "no math attention": not backends.cuda.math_sdp_enabled(),  # type: ignore[no-untyped-call]
    }
    if torch.cuda.is_available():
        told[f"{torch.cuda.get_device_name()} CUDA {torch.version.cuda}"] = True
    variables = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
    told |= {f"{name}={os.environ[name]}": True for name in variables if os.environ.get(name)}
    return ", ".join(text for text, applies in told.items() if applies)


def _layout(parameters: Mapping[str, torch.nn.Parameter]) -> str:
    """Say how the weights lie in memory, where not as torch puts them: kernels differ by that.

    Files that are mapped rarely start a tensor at a multiple of 64 bytes.
    """
    places = [
        (name, parameter.data_ptr() % 64, parameter.stride())
        for name, parameter in parameters.items()
        if parameter.data_ptr() % 64 or not parameter.is_contiguous()
    ]
    if not places:
        return ""
    digest = hashlib.sha256(repr(places).encode()).hexdigest()[:8]
    return f"{len(places)} weights not aligned ({digest})"


@cache
def _cpu_name() -> str:
    """Return the processor's name, by which libraries choose their kernels; empty if unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")


def _device(parameters: Iterable[torch.nn.Parameter]) -> str:
    """Return the accelerator that holds any of the weights, else the CPU (offloaded: meta)."""
    found = {parameter.device.type for parameter in parameters} - {"meta", "cpu"}
    return min(found, default="cpu")


def _dtype(parameters: Iterable[torch.nn.Parameter]) -> str:
    """Return the dtype of the first weights that are floats: quantised ones come as integers."""
    floats = (p.dtype for p in parameters if p.is_floating_point())
    return str(next(floats, "none")).removeprefix("torch.")


def plain_config(config: Any) -> dict[str, Any]:
    """Return a model's config as plain JSON values, with nothing private and no local path."""
    if config is None or not hasattr(config, "to_dict"):
        return {}
    return {
        key: _plain(value)
        for key, value in sorted(config.to_dict().items())
        if key not in _LEFT_OUT and not _is_private(key)
    }


def _is_private(key: str) -> bool:
    """Tell ``hub_token`` from ``bos_token_id`` and ``suppress_tokens``, which are numbers."""
    return any(word in key for word in _PRIVATE) or key == "token" or key.endswith("_token")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item)
            for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))
            if key not in _LEFT_OUT
        }
    if isinstance(value, set | frozenset):
        return sorted(str(_plain(item)) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return hide_home(str(value).removeprefix("torch."))


@cache
def _versions() -> dict[str, str]:
    """Read the versions once: they come from files, and every run is given them."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
