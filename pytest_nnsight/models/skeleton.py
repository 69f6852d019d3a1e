"""A model without weights, made from its config: its modules on torch's meta device."""

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
    """Return the nnsight model of a config, with no weights in memory; no weights file is read.

    Where the folder has no tokenizer, the model takes token ids. ``auto_class`` names transformers'
    auto class.
    """
    if spec.kind == "built-in":
        dtype = torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)
        module, tokenizer = tiny.build(spec.source.partition(":")[2], dtype, options.attn)
        module.to(DEVICE)
        module.tie_weights()  # type: ignore[operator]  # moving to the meta device unties them
        return nnsight_api.wrap_skeleton(module, tokenizer)
    if spec.kind == "gguf":
        raise UsageError(
            "a .gguf file has no config of its own to build from; give a folder with config.json, "
            "or leave out --nnsight-device-map meta"
        )
    return nnsight_api.wrap_skeleton(*_from_config(spec, options, auto_class(spec, options)))


def _from_config(spec: ModelSpec, options: LoadOptions, auto: str) -> tuple[Any, Any]:
    import transformers

    place: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if spec.revision:
        place["revision"] = spec.revision
    config = transformers.AutoConfig.from_pretrained(spec.source, **place)
    keywords: dict[str, Any] = {"dtype": _dtype(config, options)}
    if options.attn is not None:
        keywords["attn_implementation"] = options.attn
    if options.trust_remote_code:
        keywords["trust_remote_code"] = True
    with torch.device(DEVICE):
        module = getattr(transformers, auto).from_config(config, **keywords)
    if spec.kind == "directory" and not _has_tokenizer(Path(spec.source)):
        return module, None
    return module, transformers.AutoTokenizer.from_pretrained(spec.source, **place)


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _dtype(config: Any, options: LoadOptions) -> torch.dtype:
    """Return the dtype asked for; by itself the one the weights were saved in, as configs say."""
    if options.dtype != "auto":
        asked: torch.dtype = getattr(torch, options.dtype)
        return asked
    said = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None) or torch.float32
    return said if isinstance(said, torch.dtype) else getattr(torch, str(said))
