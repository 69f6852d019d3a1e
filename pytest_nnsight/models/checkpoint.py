"""Open a model folder, a hub id or a .gguf file, with its weights or only its modules."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.errors import UsageError
from pytest_nnsight.models import placement
from pytest_nnsight.models.architectures import auto_class
from pytest_nnsight.models.spec import LoadOptions, ModelSpec

_CAUSAL = "AutoModelForCausalLM"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def load(spec: ModelSpec, options: LoadOptions) -> Any:
    """Return the dispatched nnsight model of a checkpoint, placed by its device map."""
    placed = placement.parse_map(options.device_map)
    placement.check_devices(placed)
    keywords = _source(spec, options) | _numbers(options) | {"device_map": placed}
    if options.is_remote:
        return _load_for_remote(spec, options, keywords)
    with ExitStack() as cleanup, warnings.catch_warnings():
        if (folder := placement.offload_folder(placed, cleanup)) is not None:
            keywords["offload_folder"] = folder
        warnings.filterwarnings("ignore", "The following device_map keys do not match")
        auto = _CAUSAL if spec.kind == "gguf" else auto_class(_config(spec, options))
        if spec.kind != "gguf" and auto == _CAUSAL:
            model = nnsight_api.load(spec.source, **keywords)
        else:
            model = nnsight_api.wrap(*_from_pretrained(spec, options, auto, keywords))
        placement.check_placed(placed, nnsight_api.torch_module(model))
        placement.remove_with(nnsight_api.torch_module(model), cleanup)
    return model


def build_skeleton(spec: ModelSpec, options: LoadOptions) -> tuple[Any, Any]:
    """Build the modules of a config on torch's meta device; no weights file is read.

    Return also the tokenizer, or ``None`` for a folder without one.
    """
    import transformers

    if spec.kind == "gguf":
        raise UsageError(
            "a .gguf file has no config to build from; give a folder with config.json, "
            "or leave out --nnsight-device-map meta"
        )
    config = _config(spec, options)
    numbers = _numbers(options)
    if numbers["dtype"] == "auto":
        del numbers["dtype"]  # which means that of the config
    with torch.device("meta"):
        module = getattr(transformers, auto_class(config)).from_config(
            config, trust_remote_code=options.trust_remote_code, **numbers
        )
    files = [Path(spec.source) / name for name in _TOKENIZER_FILES]
    if spec.kind == "directory" and not any(file.is_file() for file in files):
        return module, None
    return module, _tokenizer(spec, options)


def _load_for_remote(spec: ModelSpec, options: LoadOptions, keywords: dict[str, Any]) -> Any:
    """Load a model that runs on a server: its modules and its tokenizer, without weights."""
    auto = auto_class(_config(spec, options))
    if auto != _CAUSAL:
        raise UsageError(f"--nnsight-remote runs causal language models, not an {auto}")
    tokenizer = _tokenizer(spec, options)
    return nnsight_api.load(spec.source, dispatch=False, tokenizer=tokenizer, **keywords)


def _from_pretrained(
    spec: ModelSpec, options: LoadOptions, auto: str, keywords: dict[str, Any]
) -> tuple[Any, Any]:
    """Load model and tokenizer by transformers, if nnsight does not load this kind of model."""
    import transformers

    if spec.kind == "gguf" and keywords["dtype"] == "auto":
        keywords = keywords | {"dtype": torch.float32}
    model = getattr(transformers, auto).from_pretrained(_path(spec), **keywords)
    try:
        return model, _tokenizer(spec, options)
    except Exception:  # transformers raises several errors if there is no tokenizer
        if model.main_input_name == "input_ids":
            raise
        return model, None


def _path(spec: ModelSpec) -> str:
    return str(Path(spec.source).parent) if spec.kind == "gguf" else spec.source


def _source(spec: ModelSpec, options: LoadOptions) -> dict[str, Any]:
    """Return the keywords that say which files transformers reads."""
    keywords: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if spec.kind == "gguf":
        keywords["gguf_file"] = Path(spec.source).name
    if spec.revision:
        keywords["revision"] = spec.revision
    return keywords


def _numbers(options: LoadOptions) -> dict[str, Any]:
    """Return the keywords that say in which type and how transformers computes."""
    dtype = options.dtype if options.dtype == "auto" else getattr(torch, options.dtype)
    attention = {} if options.attn is None else {"attn_implementation": options.attn}
    return {"dtype": dtype, **attention}


def _tokenizer(spec: ModelSpec, options: LoadOptions) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(_path(spec), **_source(spec, options))


def _config(spec: ModelSpec, options: LoadOptions) -> Any:
    import transformers

    return transformers.AutoConfig.from_pretrained(spec.source, **_source(spec, options))
