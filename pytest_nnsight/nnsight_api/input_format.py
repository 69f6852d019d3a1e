"""What a trace is given, as each version of nnsight wants it."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from pytest_nnsight.errors import UsageError
from pytest_nnsight.nnsight_api.tree import torch_module
from pytest_nnsight.nnsight_api.version import import_nnsight, version


def as_inputs(
    model: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hand tensors to nnsight 0.5 as its positional input, and leave it settings as keywords.

    Raise `UsageError` for embeddings on 0.6 and 0.7, which trace nothing without ``input_ids``.
    """
    if arguments or version() >= (0, 8):
        return arguments, keywords
    is_language = isinstance(model, import_nnsight().LanguageModel)
    if version() >= (0, 6):
        if is_language and "input_ids" not in keywords:
            raise UsageError("nnsight 0.6 and 0.7 cannot trace inputs_embeds; give token ids")
        return arguments, keywords
    tensors = {name: value for name, value in keywords.items() if isinstance(value, torch.Tensor)}
    if not is_language:
        # Without a positional input there is no trace; the others may be keywords.
        first = next(iter(inspect.signature(torch_module(model).forward).parameters))
        others = {name: value for name, value in keywords.items() if name != first}
        return (keywords.get(first),), others
    return (tensors,), {name: value for name, value in keywords.items() if name not in tensors}
