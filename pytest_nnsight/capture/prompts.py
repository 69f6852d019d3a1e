"""Turn a test's prompt into arguments of nnsight's ``trace``, and check it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.values import parameter_names
from pytest_nnsight.errors import UsageError


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt as arguments of ``trace``, with its text for the record."""

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    text: Any
    is_batch: bool
    token_counts: list[int]
    """Number of tokens of each prompt, without padding; 1 for inputs that are not tokens."""

    @property
    def text_or_ids(self) -> Any:
        """The prompt's text, or its ids, as the records of other prompts of a batch name it."""
        ids = self.keywords.get("input_ids")
        return self.text if self.text is not None or ids is None else ids.tolist()


def prepare(model: Any, prompt: Any, generates: bool) -> PreparedPrompt:
    """Prepare text, texts, chat messages, token ids or a dict of tensors.

    Text is passed to nnsight unchanged, so that its tokenizing, padding and positions are tested
    too; other prompts become tensors here. Models that are not causal always get tensors, because
    nnsight's pipelines refuse or drop inputs that do not suit their task. A module without token
    ids gets a tensor as its first argument. Raise `UsageError` for an empty or too long prompt, and
    for a prompt of another type.
    """
    module, tokenizer = nnsight_api.torch_module(model), getattr(model, "tokenizer", None)
    if isinstance(prompt, Mapping):
        prepared = _tensors(module, prompt)
    elif isinstance(prompt, torch.Tensor) and not takes_ids(module):
        prepared = _positional(module, prompt)
    elif not takes_ids(module):
        names, main = parameter_names(type(module)), main_input(module)
        inputs = main if main in names else ", ".join(names[:3])
        raise UsageError(
            f"{type(module).__name__} takes {inputs}, not text; give a dict of tensors"
        )
    elif _is_list_of(prompt, Mapping) and all("role" in message for message in prompt):
        prepared = _chat(tokenizer, list(prompt))
    elif isinstance(prompt, str) or _is_list_of(prompt, str):
        prepared = _text(module, tokenizer, prompt)
    else:
        prepared = _ids(prompt)
    _check_length(module, prepared)
    return _with_decoder_start(module, prepared, generates)


def _is_list_of(value: Any, kind: type) -> bool:
    is_list = isinstance(value, list | tuple) and bool(value)
    return is_list and all(isinstance(item, kind) for item in value)


def _text(module: torch.nn.Module, tokenizer: Any, prompt: Any) -> PreparedPrompt:
    _require(tokenizer, "text")
    is_batch = not isinstance(prompt, str)
    texts = list(prompt) if is_batch else [prompt]
    if "" in texts:
        index = f" {texts.index('')}" if is_batch else ""
        raise UsageError(f"prompt{index} is empty; give at least one character, or token ids")
    counts = [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]]
    text = texts if is_batch else prompt
    if nnsight_api.is_causal(module):
        return PreparedPrompt((text,), {}, text, is_batch, counts)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tensors = dict(tokenizer(texts, return_tensors="pt", padding=len(texts) > 1))
    return PreparedPrompt((), tensors, text, is_batch, counts)


def _chat(tokenizer: Any, messages: list[Any]) -> PreparedPrompt:
    _require(tokenizer, "chat messages")
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError("this model's tokenizer has no chat template; give the prompt as text")
    encoding = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    text = [dict(message) for message in messages]
    return PreparedPrompt((), dict(encoding), text, False, [encoding["input_ids"].shape[1]])


def _ids(prompt: Any) -> PreparedPrompt:
    try:
        if not isinstance(prompt, torch.Tensor | Sequence):
            raise TypeError(type(prompt).__name__)
        ids = torch.as_tensor(prompt if isinstance(prompt, torch.Tensor) else list(prompt))
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
    return PreparedPrompt((), tensors, None, is_batch, [ids.shape[1]] * ids.shape[0])


def _tensors(module: torch.nn.Module, prompt: Mapping[str, Any]) -> PreparedPrompt:
    values = {key: torch.as_tensor(value) for key, value in prompt.items()}
    if not values:
        raise UsageError("prompt is empty; give at least one tensor, such as input_ids")
    for key, value in values.items():
        if value.numel() == 0:
            raise UsageError(f"prompt is empty; {key} has no element")
    name = main_input(module)
    is_known = takes_ids(module) or hasattr(module, "main_input_name")
    if is_known and not {name, "input_ids", "inputs_embeds"} & values.keys():
        raise UsageError(f"a dict of tensors needs {name}, got {', '.join(map(str, prompt))}")
    tensors = {key: _like_weights(module, tensor) for key, tensor in values.items()}
    ids = tensors.get("input_ids", tensors.get("inputs_embeds"))
    if ids is not None and ids.ndim > 1:
        return PreparedPrompt((), tensors, None, ids.shape[0] > 1, [ids.shape[1]] * ids.shape[0])
    main = tensors.get(name, next(iter(tensors.values())))
    count = main.shape[0] if main.ndim > 1 else 1
    return PreparedPrompt((), tensors, None, count > 1, [1] * count)


def _positional(module: torch.nn.Module, tensor: torch.Tensor) -> PreparedPrompt:
    if tensor.numel() == 0:
        raise UsageError("prompt is empty; the tensor has no element")
    count = tensor.shape[0] if tensor.ndim > 1 else 1
    return PreparedPrompt((_like_weights(module, tensor),), {}, None, count > 1, [1] * count)


def _like_weights(module: torch.nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    """Move a tensor to the device of the weights, and floats to their dtype, as pipelines do.

    Floats keep their dtype in a module that is not a transformers model.
    """
    weight = next(module.parameters(), tensor)
    device = weight.device if weight.device.type != "meta" else tensor.device
    if not tensor.is_floating_point() or not hasattr(module, "main_input_name"):
        return tensor.to(device)
    floats = (p.dtype for p in module.parameters() if p.is_floating_point())
    return tensor.to(device, next(floats, tensor.dtype))


def main_input(module: torch.nn.Module) -> str:
    """Return the name of the input that a model must have: ``input_ids``, ``pixel_values``, ..."""
    name = getattr(module, "main_input_name", "input_ids")
    return name if isinstance(name, str) else name[0]


def takes_ids(module: torch.nn.Module) -> bool:
    """Tell whether a model takes token ids."""
    names = parameter_names(type(module))
    return "input_ids" in names or (not names and main_input(module) == "input_ids")


def _require(tokenizer: Any, what: str) -> None:
    if tokenizer is None:
        raise UsageError(f"this model has no tokenizer for {what}; give token ids or tensors")


def _check_length(module: torch.nn.Module, prepared: PreparedPrompt) -> None:
    longest = max(prepared.token_counts, default=0)
    if longest == 0:
        raise UsageError("prompt is empty: the tokenizer returns no token for it")
    limit = position_limit(module)
    if limit is not None and longest > limit:
        raise UsageError(
            f"prompt has {longest} tokens, the model takes {limit} (max_position_embeddings); "
            "shorten it"
        )


def check_generation(
    module: torch.nn.Module, prompts: Sequence[PreparedPrompt], settings: Mapping[str, Any]
) -> None:
    """Raise `UsageError` if a model cannot generate, or too many tokens for its context length."""
    if not can_generate(module):
        raise UsageError(f"{type(module).__name__} cannot generate; use nnsight_capture.trace")
    new_tokens, limit = settings["max_new_tokens"], position_limit(module)
    if not isinstance(new_tokens, int) or new_tokens < 1:
        raise UsageError(f"max_new_tokens must be a whole number from 1 on, got {new_tokens!r}")
    longest = max((max(prompt.token_counts) for prompt in prompts), default=0)
    if limit is not None and longest + new_tokens > limit:
        raise UsageError(
            f"prompt of {longest} tokens and {new_tokens} new ones exceed the model's {limit} "
            "(max_position_embeddings); shorten one of them"
        )


def can_generate(module: torch.nn.Module) -> bool:
    """Tell whether a model generates text."""
    return bool(getattr(module, "can_generate", lambda: False)())


def position_limit(module: torch.nn.Module) -> int | None:
    """Return how many tokens a model takes, or ``None`` if its config has no limit."""
    config = getattr(module, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def _with_decoder_start(
    module: torch.nn.Module, prepared: PreparedPrompt, generates: bool
) -> PreparedPrompt:
    """Add the decoder's start token, which the forward pass of an encoder-decoder needs."""
    config = getattr(module, "config", None)
    if generates or not getattr(config, "is_encoder_decoder", False):
        return prepared
    if {"decoder_input_ids", "decoder_inputs_embeds", "labels"} & set(prepared.keywords):
        return prepared
    start = getattr(config, "decoder_start_token_id", None)
    count = next(iter(prepared.keywords.values())).shape[0]
    ids = torch.full((count, 1), 0 if start is None else start, dtype=torch.long)
    return replace(prepared, keywords=prepared.keywords | {"decoder_input_ids": ids})
