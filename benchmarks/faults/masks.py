"""Faults in attention masks that are passed or computed incorrectly."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from benchmarks.faults.fault import fault
from benchmarks.faults.positions import change, left_padded
from benchmarks.faults.probe import Probe
from benchmarks.faults.variant import Variant

passed = functools.partial(fault, starts=("prompt", "model"), causes="mask", kinds=("trace",))
made = functools.partial(fault, starts="stack", causes=("mask", "code"))
_CAUSAL = ("gpt2", "llama")


def with_mask(variant: Variant) -> Probe:
    """Use token ids and a mask of ones instead of text."""
    ids = torch.tensor([variant.tokenizer(variant.probe.prompt)["input_ids"]])
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return replace(variant.probe, prompt=prompt)


def right_padded(variant: Variant) -> Probe:
    """Use a prompt followed by eight padding tokens."""
    ids = variant.tokenizer(variant.probe.prompt)["input_ids"]
    padding = [variant.clean.config.pad_token_id] * 8
    prompt = {
        "input_ids": torch.tensor([ids + padding]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * len(padding)]),
    }
    return replace(variant.probe, prompt=prompt)


def make_mask(variant: Variant, sees: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """Replace the causal mask in the model's code: query q sees key k if ``sees(q, k)``."""

    def create(*args: Any, **kwargs: Any) -> torch.Tensor:
        embeds, cache = kwargs["inputs_embeds"], kwargs.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        count = embeds.shape[1]
        queries = torch.arange(past, past + count)[:, None]
        keys = torch.arange(past + count)[None]
        return sees(queries, keys).expand(len(embeds), 1, count, past + count)

    patch(variant, "create_causal_mask", create)


def patch(variant: Variant, name: str, value: Any) -> None:
    """Replace a name in the file that defines the model."""
    file = sys.modules[type(variant.clean).__module__]
    variant.hold(mock.patch.object(file, name, value))


@passed(golden=with_mask)
def a_token_is_hidden(variant: Variant) -> None:
    """Mask the third token of the prompt."""
    mask = variant.probe.prompt["attention_mask"].clone()
    mask[0, 2] = 0
    change(variant, attention_mask=mask)


@passed(families=("bert", "t5"), golden=right_padded)
def padding_is_seen(variant: Variant) -> None:
    """Attend to the padding after the prompt."""
    change(variant, attention_mask=torch.ones_like(variant.probe.prompt["attention_mask"]))


@passed(families=_CAUSAL, golden=left_padded)
def padding_on_the_left_is_seen(variant: Variant) -> None:
    """Attend to the padding before the shorter of two prompts."""
    change(variant, attention_mask=torch.ones_like(variant.probe.prompt["attention_mask"]))


@made(families=_CAUSAL)
def every_token_sees_all(variant: Variant) -> None:
    """Drop the causal mask."""
    make_mask(variant, lambda query, key: (query >= 0) & (key >= 0))


@made(families=_CAUSAL)
def tokens_see_the_next_one(variant: Variant) -> None:
    """Shift the causal mask by one."""
    make_mask(variant, lambda query, key: key <= query + 1)


@made(families=_CAUSAL)
def tokens_do_not_see_themselves(variant: Variant) -> None:
    """Shift the causal mask by one the other way; the first token sees itself."""
    make_mask(variant, lambda query, key: (key < query) | ((key == 0) & (query == 0)))


@made(families=_CAUSAL)
def a_window_of_eight_tokens(variant: Variant) -> None:
    """Let tokens see only the last eight: a sliding window that the model does not have."""
    make_mask(variant, lambda query, key: (key <= query) & (key > query - 8))


@made(families=_CAUSAL)
def the_future_is_only_dimmed(variant: Variant) -> None:
    """Add -8 instead of minus infinity to the scores of later tokens."""
    make_mask(variant, lambda query, key: torch.where(key <= query, 0.0, -8.0))


@made(families=("bert", "t5"))
def the_last_token_is_hidden(variant: Variant) -> None:
    """Let an encoder's mask hide the last token."""

    def create(*args: Any, inputs_embeds: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        encoder = kwargs.get("encoder_hidden_states")
        keys = (inputs_embeds if encoder is None else encoder).shape[1]
        mask = torch.ones(len(inputs_embeds), 1, inputs_embeds.shape[1], keys, dtype=torch.bool)
        mask[..., -1] = encoder is not None
        return mask

    patch(variant, "create_bidirectional_mask", create)


@made(families=("bert",))
def an_encoder_that_looks_back_only(variant: Variant) -> None:
    """Give an encoder a causal mask."""

    def create(*args: Any, inputs_embeds: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        count = inputs_embeds.shape[1]
        mask = torch.ones(count, count, dtype=torch.bool).tril()
        return mask.expand(len(inputs_embeds), 1, count, count)

    patch(variant, "create_bidirectional_mask", create)
