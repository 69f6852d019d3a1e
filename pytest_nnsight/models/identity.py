"""Describe a loaded model and its machine for a golden: class, config, device, versions."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
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
# Settings that say where or by which release a model was saved, not what it computes.
_IGNORED = (
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
_PRIVATE = re.compile("secret|password|api_key|auth_token|(^|_)token$")  # not bos_token_id


def identify(model: Any, spec: ModelSpec | None) -> tuple[ModelRecord, Environment]:
    """Describe a loaded model and its machine; ``spec`` is ``None`` for a model from a fixture."""
    module = nnsight_api.torch_module(model)
    parameters = dict(module.named_parameters())  # once, since it visits all modules
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
    device = nnsight_api.compute_device(parameters.values())
    environment = Environment(
        versions=_versions(),
        device="meta" if nnsight_api.is_skeleton(model) else device,
        dtype=_dtype(parameters.values()),
        attention=str(getattr(config, "_attn_implementation", None) or "none"),
        threads=torch.get_num_threads(),
        cpu=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {_cpu_name()}".strip(),
        kernels=", ".join(filter(None, [_kernels(), _layout(parameters)])),
    )
    return record, environment


def _module_settings(modules: Mapping[str, torch.nn.Module]) -> dict[str, dict[str, int]]:
    """Count the modules of each class by their ``extra_repr`` and training mode.

    An epsilon or a dropout appears here even if it is not in the config.
    """
    counts: dict[str, Counter[str]] = {}
    for module in modules.values():
        text = module.extra_repr() + (" (training)" if module.training else "")
        counts.setdefault(type(module).__name__, Counter())[text] += 1
    return {name: dict(sorted(texts.items())) for name, texts in sorted(counts.items())}


def _generation(module: torch.nn.Module) -> dict[str, Any]:
    """Return the settings of the checkpoint's generation config that are not the defaults."""
    config = getattr(module, "generation_config", None)
    settings = {} if config is None else _public(config.to_diff_dict())
    return {key: value for key, value in settings.items() if not key.startswith("_")}


def _adapters(module: torch.nn.Module) -> dict[str, Any]:
    """Return the settings of peft's adapters that are not empty: releases add empty ones."""
    found = getattr(module, "peft_config", None)
    if not isinstance(found, Mapping):
        return {}
    settings = {name: plain_config(config) for name, config in found.items()}
    return {"adapters": {n: {k: v for k, v in it.items() if v} for n, it in settings.items()}}


def _kernels() -> str:
    """Return the settings that select kernels, where they are not torch's defaults."""
    backends = torch.backends
    settings = {
        "no oneDNN": not backends.mkldnn.enabled,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        f"matmul {torch.get_float32_matmul_precision()}": (
            torch.get_float32_matmul_precision() != "highest"
        ),
        "no flash attention": not backends.cuda.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
        "no math attention": not backends.cuda.math_sdp_enabled(),  # type: ignore[no-untyped-call]
    }
    if torch.cuda.is_available():
        settings[f"{torch.cuda.get_device_name()} CUDA {torch.version.cuda}"] = True
    variables = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
    settings |= {f"{name}={os.environ[name]}": True for name in variables if os.environ.get(name)}
    return ", ".join(text for text, applies in settings.items() if applies)


def _layout(parameters: Mapping[str, torch.nn.Parameter]) -> str:
    """Return how many weights are not aligned or contiguous, since kernels depend on that.

    In a mapped file, a tensor rarely starts at a multiple of 64 bytes.
    """
    unaligned = [
        (name, parameter.data_ptr() % 64, parameter.stride())
        for name, parameter in parameters.items()
        if parameter.data_ptr() % 64 or not parameter.is_contiguous()
    ]
    if not unaligned:
        return ""
    digest = hashlib.sha256(repr(unaligned).encode()).hexdigest()[:8]
    return f"{len(unaligned)} weights not aligned ({digest})"


@cache
def _cpu_name() -> str:
    """Return the processor's name, by which libraries select kernels; empty if unknown."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")


def _dtype(parameters: Iterable[torch.nn.Parameter]) -> str:
    """Return the dtype of the first floating-point weights: quantised ones are integers."""
    floats = (p.dtype for p in parameters if p.is_floating_point())
    return str(next(floats, "none")).removeprefix("torch.")


def plain_config(config: Any) -> dict[str, Any]:
    """Return a model's config as JSON values, without secrets and local paths."""
    return _public(config.to_dict()) if hasattr(config, "to_dict") else {}


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON values, without secrets."""
    return {key: value for key, value in _plain(settings).items() if not _PRIVATE.search(key)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        named = {str(key): _plain(item) for key, item in value.items() if key not in _IGNORED}
        return dict(sorted(named.items()))
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
    """Return the versions of the libraries; cached, since they are read from files."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
