"""Build a model without weights from its config: its modules are on torch's meta device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.errors import UsageError
from pytest_nnsight.models import tiny
from pytest_nnsight.models.spec import LoadOptions, ModelSpec

DEVICE = "meta"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def build(
    spec: ModelSpec, options: LoadOptions, auto_class: Callable[[ModelSpec, LoadOptions], str]
) -> Any:
    """Return the nnsight model of a config; no weights file is read.

    Without a tokenizer in its folder, the model takes token ids. ``auto_class`` returns the name of
    transformers' auto class.
    """
    if spec.kind == "built-in":
        dtype = torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)
        module, tokenizer = tiny.build(spec.source.partition(":")[2], dtype, options.attn)
        module.to(DEVICE)
        module.tie_weights()  # type: ignore[operator]  # moving to the meta device unties them
        return nnsight_api.wrap_skeleton(module, tokenizer)
    if spec.kind == "gguf":
        raise UsageError(
            "a .gguf file has no config to build from; give a folder with config.json, "
            "or leave out --nnsight-device-map meta"
        )
    return nnsight_api.wrap_skeleton(*_from_config(spec, options, auto_class(spec, options)))


def _from_config(spec: ModelSpec, options: LoadOptions, auto: str) -> tuple[Any, Any]:
    import transformers

    source: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if spec.revision:
        source["revision"] = spec.revision
    config = transformers.AutoConfig.from_pretrained(spec.source, **source)
    keywords: dict[str, Any] = {"dtype": _dtype(config, options)}
    if options.attn is not None:
        keywords["attn_implementation"] = options.attn
    if options.trust_remote_code:
        keywords["trust_remote_code"] = True
    with torch.device(DEVICE):
        module = getattr(transformers, auto).from_config(config, **keywords)
    if spec.kind == "directory" and not _has_tokenizer(Path(spec.source)):
        return module, None
    return module, transformers.AutoTokenizer.from_pretrained(spec.source, **source)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _dtype(config: Any, options: LoadOptions) -> torch.dtype:
    """Return the requested dtype; for ``auto``, the one that the config says weights have."""
    if options.dtype != "auto":
        requested: torch.dtype = getattr(torch, options.dtype)
        return requested
    saved = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None) or torch.float32
    return saved if isinstance(saved, torch.dtype) else getattr(torch, str(saved))
