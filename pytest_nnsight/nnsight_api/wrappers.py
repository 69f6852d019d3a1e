"""Open a model with the nnsight class that suits it, by its path or from a torch module."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pytest_nnsight.nnsight_api.module_tree import torch_module
from pytest_nnsight.nnsight_api.version import import_nnsight, version


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence nnsight's warnings about deprecated classes, and about modules with taken names.

    Modules such as BERT's have a submodule ``output``, so nnsight mounts its own ``output`` under
    another name. Captures find modules by path and do not need the name.
    """
    with warnings.catch_warnings():
        taken = "Module .* has (a submodule named|pre-defined a)"
        warnings.filterwarnings("ignore", message=taken)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="nnsight")
        yield


def load(path: str, dispatch: bool = True, **keywords: Any) -> Any:
    """Load a causal language model by hub id or folder, as users of nnsight do.

    Without ``dispatch`` no weights are loaded.
    """
    nnsight = import_nnsight()
    with _quiet():
        if version() >= (0, 8):
            return nnsight.TransformersModel(
                path, task="text-generation", dispatch=dispatch, **keywords
            )
        return nnsight.LanguageModel(path, dispatch=dispatch, **keywords)


def wrap(module: torch.nn.Module, tokenizer: Any, **keywords: Any) -> Any:
    """Wrap a loaded transformers model of any architecture, with its tokenizer if it has one.

    A model without a tokenizer is wrapped like any torch module: nnsight's pipelines need a
    processor for it, and its language models before 0.8 need token ids. ``keywords`` are those of
    nnsight's pipelines, which are new in 0.8.
    """
    nnsight = import_nnsight()
    with _quiet():
        if tokenizer is None:
            return nnsight.NNsight(module)
        if version() >= (0, 8):
            # Pipelines of other tasks refuse prompts that do not suit the task, such as a text
            # without a mask token. That of feature-extraction only tokenizes.
            is_text = is_causal(module) and not hasattr(module.config, "vision_config")
            task = "text-generation" if is_text else "feature-extraction"
            return nnsight.TransformersModel(module, tokenizer=tokenizer, task=task, **keywords)
        _set_padding(module, tokenizer)
        if getattr(module, "main_input_name", "input_ids") != "input_ids":
            model = nnsight.NNsight(module)
            model.__dict__["tokenizer"] = tokenizer
            return model
        return nnsight.LanguageModel(module, tokenizer=tokenizer)


def wrap_skeleton(module: torch.nn.Module, tokenizer: Any) -> Any:
    """Wrap a model on the meta device; without a tokenizer it takes token ids."""
    if tokenizer is not None:
        return wrap(module, tokenizer, device="meta")
    with _quiet():
        if version() < (0, 8):
            return import_nnsight().LanguageModel(module, tokenizer=None)
        # `TransformersModel` requires a tokenizer, and `NNsight` has no scan.
        from nnsight.modeling.huggingface import HuggingFaceModel

        return HuggingFaceModel(module)


def _set_padding(module: torch.nn.Module, tokenizer: Any) -> None:
    """Set the padding that nnsight sets on a tokenizer which it loads. Can go with nnsight 0.7."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if is_causal(module):
        tokenizer.padding_side = "left"


def is_causal(module: torch.nn.Module) -> bool:
    """Tell whether a model is a decoder-only language model."""
    config = getattr(module, "config", None)
    can_generate = getattr(module, "can_generate", lambda: False)
    return bool(can_generate()) and not getattr(config, "is_encoder_decoder", False)


def is_skeleton(model: Any) -> bool:
    """Tell whether a model has no weights and will not load any.

    nnsight loads the weights of a model that is not dispatched when it is first used, and
    accelerate loads offloaded weights when a module is called.
    """
    module = torch_module(model)
    devices = (parameter.device.type for parameter in module.parameters())
    if next(devices, "none") != "meta" or any(device != "meta" for device in devices):
        return False
    will_load = not getattr(model, "dispatched", True)
    return not will_load and not any(hasattr(part, "_hf_hook") for part in module.modules())
