"""Bring the inputs of a trace into the form that the installed nnsight expects."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from pytest_nnsight.errors import UsageError
from pytest_nnsight.nnsight_api.module_tree import torch_module
from pytest_nnsight.nnsight_api.version import import_nnsight, version


def adapt_inputs(
    model: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the inputs for nnsight: 0.5 takes tensors as one positional dict, not as keywords.

    Raise `UsageError` for embeddings on 0.6 and 0.7, which cannot trace without ``input_ids``. Can
    go with nnsight 0.7.
    """
    if arguments or version() >= (0, 8):
        return arguments, keywords
    is_language_model = isinstance(model, import_nnsight().LanguageModel)
    if version() >= (0, 6):
        if is_language_model and "input_ids" not in keywords:
            raise UsageError("nnsight 0.6 and 0.7 cannot trace inputs_embeds; give token ids")
        return arguments, keywords
    if not is_language_model:
        # Without a positional input 0.5 opens no trace; the other inputs may be keywords.
        first = next(iter(inspect.signature(torch_module(model).forward).parameters))
        others = {name: value for name, value in keywords.items() if name != first}
        return (keywords.get(first),), others
    tensors = {name: value for name, value in keywords.items() if isinstance(value, torch.Tensor)}
    return (tensors,), {name: value for name, value in keywords.items() if name not in tensors}
