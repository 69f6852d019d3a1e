"""A prompt as a test writes it -> what nnsight's ``trace`` takes, checked before the model runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.values import parameter_names
from pytest_nnsight.errors import UsageError


@dataclass(frozen=True, slots=True)
class Request:
    """The positional and keyword arguments of ``trace``, and the prompt for the record."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    text: Any
    is_batch: bool
    rows: list[int]
    """Tokens of each prompt, without padding; one where it is no text."""

    @property
    def asked(self) -> Any:
        """What was asked for, to be named in the record of another: its text, or its ids."""
        ids = self.keywords.get("input_ids")
        return self.text if self.text is not None or ids is None else ids.tolist()


def read(model: Any, prompt: Any, generates: bool) -> Request:
    """Recognise text, texts, chat messages, token ids or a dict of tensors, or raise `UsageError`.

    Text goes to nnsight as it is, so that its tokenizing, padding and positions are under test too;
    everything else is made tensors here. Models that are not causal get tensors always: nnsight's
    pipelines refuse or drop what does not suit their task. A module that takes no ids is given a
    tensor as its first argument.
    """
    module, tokenizer = nnsight_api.torch_module(model), getattr(model, "tokenizer", None)
    if isinstance(prompt, Mapping):
        request = _tensors(module, prompt)
    elif isinstance(prompt, torch.Tensor) and not takes_ids(module):
        request = _positional(module, prompt)
    elif not takes_ids(module):
        raise UsageError(
            f"{type(module).__name__} takes {_names(module)}, no text; give a dict of tensors"
        )
    elif _is_chat(prompt):
        request = _chat(tokenizer, list(prompt))
    elif isinstance(prompt, str) or _is_list_of(prompt, str):
        request = _text(module, tokenizer, prompt)
    else:
        request = _ids(prompt)
    _check_length(module, request)
    return _with_decoder_start(module, request, generates)


def _is_list_of(value: Any, kind: type) -> bool:
    return (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(v, kind) for v in value)
    )


def _is_chat(prompt: Any) -> bool:
    return _is_list_of(prompt, Mapping) and all("role" in message for message in prompt)


def _text(module: torch.nn.Module, tokenizer: Any, prompt: Any) -> Request:
    _need(tokenizer, "text")
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    for index, text in enumerate(texts):
        if not text:
            where = "" if isinstance(prompt, str) else f" {index}"
            raise UsageError(f"prompt{where} is empty; give at least one character, or token ids")
    rows = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    is_batch = not isinstance(prompt, str)
    if nnsight_api.is_causal(module):
        argument = texts if is_batch else prompt
        return Request((argument,), {}, argument, is_batch, rows)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tensors = dict(tokenizer(texts, return_tensors="pt", padding=len(texts) > 1))
    return Request((), tensors, texts if is_batch else prompt, is_batch, rows)


def _chat(tokenizer: Any, messages: list[Any]) -> Request:
    _need(tokenizer, "chat messages")
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError("this model's tokenizer has no chat template; give the prompt as text")
    encoding = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    text = [dict(message) for message in messages]
    return Request((), dict(encoding), text, False, [encoding["input_ids"].shape[1]])


def _ids(prompt: Any) -> Request:
    try:
        rows = prompt if isinstance(prompt, torch.Tensor) else _rows(prompt)
        ids = torch.as_tensor(rows)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "a prompt is text, a list of texts, chat messages, token ids (all of one length) or a "
            f"dict of tensors, got {type(prompt).__name__}"
        ) from error
    if ids.numel() == 0:
        raise UsageError("prompt is empty; give at least one token id")
    if ids.is_floating_point() or ids.ndim not in (1, 2):
        raise UsageError(f"token ids are whole numbers in one or two dimensions, got {ids.dtype}")
    is_batch = ids.ndim == 2
    ids = ids.reshape(-1, ids.shape[-1]).long()
    tensors = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Request((), tensors, None, is_batch, [ids.shape[1]] * ids.shape[0])


def _rows(prompt: Any) -> Any:
    if not isinstance(prompt, Sequence):
        raise TypeError(type(prompt).__name__)
    return list(prompt)


def _tensors(module: torch.nn.Module, prompt: Mapping[str, Any]) -> Request:
    given = {key: torch.as_tensor(value) for key, value in prompt.items()}
    if not given:
        raise UsageError("prompt is empty; give at least one tensor, such as input_ids")
    empty = next((name for name, tensor in given.items() if tensor.numel() == 0), None)
    if empty is not None:
        raise UsageError(f"prompt is empty; {empty} has no element")
    name = main_input(module)
    is_known = takes_ids(module) or hasattr(module, "main_input_name")
    if is_known and not {name, "input_ids", "inputs_embeds"} & given.keys():
        raise UsageError(f"a dict of tensors needs {name}, got {', '.join(map(str, prompt))}")
    tensors = {key: _as_weights_are(module, tensor) for key, tensor in given.items()}
    ids = tensors.get("input_ids", tensors.get("inputs_embeds"))
    if ids is not None and ids.ndim > 1:
        return Request((), tensors, None, ids.shape[0] > 1, [ids.shape[1]] * ids.shape[0])
    main = tensors.get(name, next(iter(tensors.values())))
    rows = main.shape[0] if main.ndim > 1 else 1
    return Request((), tensors, None, rows > 1, [1] * rows)


def _positional(module: torch.nn.Module, tensor: torch.Tensor) -> Request:
    if tensor.numel() == 0:
        raise UsageError("prompt is empty; the tensor has no element")
    rows = tensor.shape[0] if tensor.ndim > 1 else 1
    return Request((_as_weights_are(module, tensor),), {}, None, rows > 1, [1] * rows)


def _as_weights_are(module: torch.nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    """Bring a tensor to the weights' device, and numbers to their type, as pipelines do.

    A module of no architecture that transformers knows is given numbers as they are.
    """
    weight = next(module.parameters(), tensor)
    device = weight.device if weight.device.type != "meta" else tensor.device
    if not tensor.is_floating_point() or not hasattr(module, "main_input_name"):
        return tensor.to(device)
    floats = (p.dtype for p in module.parameters() if p.is_floating_point())
    return tensor.to(device, next(floats, tensor.dtype))


def main_input(module: torch.nn.Module) -> str:
    """Return the name of the input that a model cannot do without: ``pixel_values``, ..."""
    name = getattr(module, "main_input_name", "input_ids")
    return name if isinstance(name, str) else name[0]


def takes_ids(module: torch.nn.Module) -> bool:
    """Tell whether a model takes token ids, as language models do."""
    names = parameter_names(type(module))
    return "input_ids" in names or (not names and main_input(module) == "input_ids")


def _names(module: torch.nn.Module) -> str:
    """Return what a module takes: what it must have, else its first parameters by name."""
    names = parameter_names(type(module))
    return main_input(module) if main_input(module) in names else ", ".join(names[:3])


def _need(tokenizer: Any, what: str) -> None:
    if tokenizer is None:
        raise UsageError(f"this model has no tokenizer for {what}; give token ids or tensors")


def _check_length(module: torch.nn.Module, request: Request) -> None:
    longest = max(request.rows, default=0)
    if longest == 0:
        raise UsageError("prompt is empty: the tokenizer makes no token of it")
    limit = position_limit(module)
    if limit is not None and longest > limit:
        raise UsageError(
            f"prompt has {longest} tokens, the model takes {limit} (max_position_embeddings); "
            "shorten it"
        )


def check_budget(module: torch.nn.Module, request: Request, new_tokens: int) -> None:
    """Raise `UsageError` where prompt and new tokens are more than the model takes."""
    if not isinstance(new_tokens, int) or new_tokens < 1:
        raise UsageError(f"max_new_tokens must be a whole number from 1 on, got {new_tokens!r}")
    limit, longest = position_limit(module), max(request.rows)
    if limit is not None and longest + new_tokens > limit:
        raise UsageError(
            f"prompt of {longest} tokens and {new_tokens} new ones exceed the model's {limit} "
            "(max_position_embeddings); shorten one of them"
        )


def position_limit(module: torch.nn.Module) -> int | None:
    """Return how many tokens a model takes, where its config says so."""
    config = getattr(module, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def _with_decoder_start(module: torch.nn.Module, request: Request, generates: bool) -> Request:
    """Give an encoder-decoder the decoder's start token, which its forward pass needs."""
    config = getattr(module, "config", None)
    if generates or not getattr(config, "is_encoder_decoder", False):
        return request
    if {"decoder_input_ids", "decoder_inputs_embeds", "labels"} & set(request.keywords):
        return request
    start = getattr(config, "decoder_start_token_id", None)
    rows = next(iter(request.keywords.values())).shape[0]
    ids = torch.full((rows, 1), 0 if start is None else start, dtype=torch.long)
    return replace(request, keywords=request.keywords | {"decoder_input_ids": ids})
