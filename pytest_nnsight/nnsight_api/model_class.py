"""A model's path or module -> an nnsight model."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from pytest_nnsight.nnsight_api.version import import_nnsight, version

# Where nnsight mounts ``output`` on modules that have one, as BERT's do; captures go by path.
_NAME_IS_TAKEN = "Module .* has (a submodule named|pre-defined a)"


def load(path: str, dispatch: bool = True, **keywords: Any) -> Any:
    """Load a causal language model by hub id or folder, as nnsight's users do.

    Where it is not to ``dispatch``, no weights are fetched.
    """
    nnsight = import_nnsight()
    if keywords.get("revision") is None:
        keywords.pop("revision", None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_NAME_IS_TAKEN)
        if version() >= (0, 8):
            return nnsight.TransformersModel(
                path, task="text-generation", dispatch=dispatch, **keywords
            )
        return nnsight.LanguageModel(path, dispatch=dispatch, **keywords)


def wrap(module: torch.nn.Module, tokenizer: Any) -> Any:
    """Wrap a loaded transformers model of any architecture, with its tokenizer if it has one.

    What takes no text is wrapped as any torch module is: nnsight's pipelines want a processor for
    it, and its language models, before 0.8, ids.
    """
    nnsight = import_nnsight()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_NAME_IS_TAKEN)
        if tokenizer is None:
            return nnsight.NNsight(module)
        if version() >= (0, 8):
            # The pipeline of any other task refuses prompts that do not suit the task, such as a
            # text without a mask token; this one only tokenizes.
            is_text = is_causal(module) and not hasattr(module.config, "vision_config")
            task = "text-generation" if is_text else "feature-extraction"
            return nnsight.TransformersModel(module, tokenizer=tokenizer, task=task)
        _pad_for_batches(module, tokenizer)
        if getattr(module, "main_input_name", "input_ids") != "input_ids":
            model = nnsight.NNsight(module)
            model.__dict__["tokenizer"] = tokenizer
            return model
        return nnsight.LanguageModel(module, tokenizer=tokenizer)


def _pad_for_batches(module: torch.nn.Module, tokenizer: Any) -> None:
    """Pad as nnsight does with a tokenizer that it loads itself. Goes when nnsight 0.7 does."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if is_causal(module):
        tokenizer.padding_side = "left"


def is_causal(module: torch.nn.Module) -> bool:
    """Tell a decoder-only language model from an encoder or an encoder-decoder."""
    config = getattr(module, "config", None)
    can_generate = getattr(module, "can_generate", lambda: False)
    return bool(can_generate()) and not getattr(config, "is_encoder_decoder", False)
