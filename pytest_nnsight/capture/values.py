"""Read the inputs and outputs of modules: structure, tensors, token ids, logits, digests."""

from __future__ import annotations

import dataclasses
import inspect
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import torch

from pytest_nnsight.summary.summarizer import summarize

TokenRows = tuple[tuple[int, ...], ...]
"""One row of ids for each prompt."""


def parameter_names(module_class: type[torch.nn.Module]) -> tuple[str, ...]:
    """Return the names of the parameters of ``forward`` that may be passed by position."""
    try:
        parameters = list(inspect.signature(module_class.forward).parameters.values())[1:]
    except (TypeError, ValueError):  # forward is not a Python function
        return ()
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in named)


def by_name(
    arguments: Sequence[Any], keywords: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    """Return the arguments of a call by the names of the parameters.

    An argument passed by position gets the name it would have as a keyword; beyond ``names`` its
    name is its position.
    """
    all_names = [*names, *map(str, range(len(names), len(arguments)))]
    return {**dict(zip(all_names, arguments, strict=False)), **keywords}


def describe(value: Any, at: str = "out") -> tuple[str, list[tuple[str, torch.Tensor]]]:
    """Return the structure of ``value`` as text, and its tensors with the path to each.

    Tuples, lists, dicts, dataclasses and transformers' model outputs are walked. Anything else,
    such as a key-value cache, is written as the name of its class.
    """
    tensors: list[tuple[str, torch.Tensor]] = []
    return _describe(value, at, tensors), tensors


def _describe(value: Any, at: str, tensors: list[tuple[str, torch.Tensor]]) -> str:
    kind = type(value)
    if kind is torch.Tensor or isinstance(value, torch.Tensor):
        tensors.append((at, value))
        return "tensor"
    if value is None or isinstance(value, (int, str)):
        return repr(value)
    if kind is tuple or kind is list or isinstance(value, (tuple, list)):
        inner = ", ".join(
            [_describe(item, f"{at}[{index}]", tensors) for index, item in enumerate(value)]
        )
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if kind is dict or isinstance(value, Mapping):
        inner = ", ".join(
            [f"{key}={_describe(item, f'{at}.{key}', tensors)}" for key, item in value.items()]
        )
        return f"{{{inner}}}" if kind is dict else f"{kind.__name__}({inner})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        inner = ", ".join(
            [f"{name}={_describe(getattr(value, name), f'{at}.{name}', tensors)}" for name in names]
        )
        return f"{kind.__name__}({inner})"
    if kind.__name__ == "BlockMask":
        tensors.append((at, _dense(value)))
    return kind.__name__


def _dense(mask: Any) -> torch.Tensor:
    """Return a mask of flex attention as booleans ``[batch, heads, queries, keys]``.

    It is stored on the mask, so that all modules that are given the mask share one tensor.
    """
    from torch.nn.attention.flex_attention import create_mask

    if not hasattr(mask, "_nnsight_dense"):
        batch, heads, queries, keys = mask.shape
        device = str(mask.kv_num_blocks.device)
        mask._nnsight_dense = create_mask(mask.mask_mod, batch, heads, queries, keys, device)
    dense: torch.Tensor = mask._nnsight_dense
    return dense


def map_tensors(value: Any, function: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return ``value`` with ``function`` applied to every tensor.

    Containers keep their type, but a mapping that is not a model output becomes a plain dict.
    """
    if isinstance(value, torch.Tensor):
        return function(value)
    if type(value).__name__ == "BlockMask":
        return function(_dense(value))
    if isinstance(value, Mapping):
        items = {key: map_tensors(item, function) for key, item in value.items()}
        kind: Any = type(value)
        if hasattr(kind, "__dataclass_fields__"):
            return kind(**items)
        return OrderedDict(items) if isinstance(value, OrderedDict) else items
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        changed = {name: map_tensors(item, function) for name, item in fields.items()}
        return dataclasses.replace(value, **changed)
    if isinstance(value, tuple | list):
        return rebuild(value, [map_tensors(item, function) for item in value])
    return value


def rebuild(container: tuple[Any, ...] | list[Any], items: list[Any]) -> Any:
    """Return ``items`` in a container of the same type; a named tuple takes one argument each."""
    kind: Any = type(container)
    return kind(*items) if hasattr(container, "_fields") else kind(items)


def whole_numbers(named: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the ids, masks and positions among the inputs of a model, copied to the host."""
    return {
        name: value.detach().cpu().clone()
        for name, value in named.items()
        if isinstance(value, torch.Tensor) and not value.is_floating_point() and value.ndim == 2
    }


def rows_of(tensor: torch.Tensor) -> TokenRows:
    """Return a tensor of whole numbers in two dimensions as rows of numbers."""
    return tuple(tuple(int(number) for number in row) for row in tensor.cpu().tolist())


def pieces_of(model: Any, token_ids: TokenRows) -> tuple[tuple[str, ...], ...]:
    """Return the text of each id; nothing where the model has no tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or not token_ids:
        return ()
    return tuple(tuple(tokenizer.batch_decode([[i] for i in row])) for row in token_ids)


def tensor_digests(named: Mapping[str, Any], without: Container[str] = ()) -> dict[str, str]:
    """Return dtype, shape and checksum of each tensor among some values, by name."""
    digests = {}
    for name, value in sorted(named.items()):
        if isinstance(value, torch.Tensor) and name not in without:
            dtype = str(value.dtype).removeprefix("torch.")
            digests[name] = f"{dtype} {list(value.shape)} {summarize([value])[0].digest}"
    return digests


def logit_margin(value: Any) -> torch.Tensor | None:
    """Return the difference of the two highest logits of each last token, ``[prompts]``.

    On the device of the logits; ``None`` for an output without logits ``[prompts, tokens, words]``.
    """
    logits = value.get("logits") if hasattr(value, "get") else None
    if logits is None and isinstance(value, tuple) and value:
        logits = value[0]
    if not isinstance(logits, torch.Tensor) or logits.ndim != 3 or logits.shape[-1] < 2:
        return None
    top = logits.detach()[:, -1].float().topk(2).values
    return top[:, 0] - top[:, 1]
