"""Faults that appear when text is generated: the cache, and the choice of tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from transformers.cache_utils import Cache

from benchmarks.faults.fault import fault
from benchmarks.faults.probe import Probe
from benchmarks.faults.variant import Variant

Pair = tuple[torch.Tensor, torch.Tensor]

cached = functools.partial(
    fault, causes="code", families=("gpt2", "llama", "t5"), kinds=("generate",)
)
chosen = functools.partial(
    fault, starts="generated", causes=("sampling", "config", "settings"), kinds=("generate",)
)


def change_cache(
    variant: Variant, layer: int | None, change: Callable[[torch.Tensor, torch.Tensor], Pair]
) -> None:
    """Change what the cache returns, keys and values ``[batch, head, token, width]``, at a layer.

    In decoding only, and not in T5's cross attention, which reads the cache once.
    """
    update = Cache.update

    def changed(cache: Cache, keys: Any, values: Any, index: int, *args: Any, **kw: Any) -> Any:
        together = update(cache, keys, values, index, *args, **kw)
        is_decoding = keys.shape[-2] == 1 and together[0].shape[-2] > 1
        return change(*together) if is_decoding and layer in (None, index) else together

    variant.hold(mock.patch.object(Cache, "update", changed))


def as_sample(variant: Variant) -> Probe:
    """Request sampled text, with a seed."""
    return replace(variant.probe, settings={"do_sample": True, "seed": 7})


def newest_replaced(keys: torch.Tensor, values: torch.Tensor) -> Pair:
    """Give the newest token the key of the token before it."""
    return torch.cat([keys[..., :-1, :], keys[..., -2:-1, :]], -2), values


@cached(starts="cached middle")
def the_cache_keeps_a_stale_key(variant: Variant) -> None:
    """Return the second newest key twice, in one layer."""
    change_cache(variant, variant.roles.layers // 2, newest_replaced)


@cached(starts="cached first", families=("gpt2", "llama"))
def the_cache_forgets_the_first_token(variant: Variant) -> None:
    """Lose the first token from all layers' caches."""
    change_cache(variant, None, lambda k, v: (k[..., 1:, :], v[..., 1:, :]))


@cached(starts="cached first", families=("gpt2", "llama"))
def the_cache_holds_only_the_newest(variant: Variant) -> None:
    """Do not read the cache at all."""
    change_cache(variant, None, lambda k, v: (k[..., -1:, :], v[..., -1:, :]))


@cached(starts="cached middle")
def cached_values_one_token_off(variant: Variant) -> None:
    """Shift the values relative to the keys, in one layer."""
    change_cache(variant, variant.roles.layers // 2, lambda k, v: (k, v.roll(1, -2)))


@cached(starts="cached first")
def the_cache_in_bfloat16(variant: Variant) -> None:
    """Store keys and values in bfloat16."""
    change_cache(variant, None, lambda k, v: (k.bfloat16().to(k.dtype), v.bfloat16().to(v.dtype)))


@cached(starts="cached last")
def the_cache_in_int8(variant: Variant) -> None:
    """Store the keys of one layer in int8."""

    def quantised(keys: torch.Tensor, values: torch.Tensor) -> Pair:
        scale = keys.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        return (keys / scale).round() * scale, values

    change_cache(variant, variant.roles.layers - 1, quantised)


@cached(starts="cached middle")
def the_cache_keeps_a_stale_key_late(variant: Variant) -> None:
    """Return the second newest key twice, in one layer, from the fourth step on."""
    layer, seen = variant.roles.layers // 2, []

    def from_the_fourth(keys: torch.Tensor, values: torch.Tensor) -> Pair:
        seen.append(1)
        return newest_replaced(keys, values) if len(seen) >= 4 else (keys, values)

    change_cache(variant, layer, from_the_fourth)


@chosen()
def a_penalty_of_repetition(variant: Variant) -> None:
    """Let the checkpoint's generation config penalise repetition."""
    variant.module.generation_config.repetition_penalty = 1.5


@chosen()
def no_pair_of_tokens_twice(variant: Variant) -> None:
    """Let the generation config forbid that two tokens repeat."""
    variant.module.generation_config.no_repeat_ngram_size = 2


@chosen()
def tokens_suppressed(variant: Variant) -> None:
    """Let the generation config suppress a third of the vocabulary."""
    size = variant.module.config.vocab_size
    variant.module.generation_config.suppress_tokens = list(range(0, size, 3))


@chosen(golden=as_sample)
def another_temperature(variant: Variant) -> None:
    """Let the generation config set another temperature; the test samples."""
    variant.module.generation_config.temperature = 0.3


@chosen(golden=as_sample)
def only_the_two_likeliest(variant: Variant) -> None:
    """Let the generation config keep two tokens; the test samples."""
    variant.module.generation_config.top_k = 2


@chosen(starts=("generated", "prompt"), golden=as_sample)
def another_seed(variant: Variant) -> None:
    """Sample with another seed."""
    variant.probe = replace(variant.probe, settings={**variant.probe.settings, "seed": 8})
