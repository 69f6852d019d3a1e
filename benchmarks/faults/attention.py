"""Faults in attention and rotary code; weights, config and prompt are unchanged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from benchmarks.faults.fault import fault
from benchmarks.faults.variant import Variant


def replace_attention(
    variant: Variant, role: str, layer: str | None, attend: Callable[..., Any]
) -> None:
    """Run ``attend(original, module, q, k, v, **kwargs)`` as the attention function.

    In one layer; in all layers (T5: all encoder layers) if ``layer`` is ``None``.
    """
    name = variant.config._attn_implementation
    original = ALL_ATTENTION_FUNCTIONS[name]
    chosen = variant.at(f"{role} {layer}") if layer is not None else None
    kind = type(variant.at(f"{role} first"))

    def function(
        module: Any, q: Any, k: Any, v: Any, attention_mask: Any = None, **kwargs: Any
    ) -> Any:
        if (chosen is None and isinstance(module, kind)) or module is chosen:
            return attend(original, module, q, k, v, attention_mask=attention_mask, **kwargs)
        return original(module, q, k, v, attention_mask, **kwargs)

    variant.hold(mock.patch.dict(ALL_ATTENTION_FUNCTIONS._local_mapping, {name: function}))


def change_heads(
    variant: Variant, layer: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Change what the attention function of one layer returns, ``[batch, token, head, width]``."""

    def attend(original: Any, module: Any, *qkv: Any, attention_mask: Any, **kwargs: Any) -> Any:
        value, weights = original(module, *qkv, attention_mask, **kwargs)
        return change(value.clone()), weights

    replace_attention(variant, "attention", layer, attend)


def patch_rotary(variant: Variant, name: str, value: Any) -> None:
    """Replace a rotary function in the file that defines the model."""
    variant.hold(mock.patch.object(sys.modules[type(variant.clean).__module__], name, value))


def scale_head(value: torch.Tensor, factor: float) -> torch.Tensor:
    """Scale the second head."""
    value[:, :, 1] *= factor
    return value


@fault(starts="attention middle", causes="code")
def the_code_loses_a_head(variant: Variant) -> None:
    """Set the output of one head to zero."""
    change_heads(variant, "middle", lambda value: scale_head(value, 0.0))


@fault(starts="attention middle", causes="code")
def the_code_scales_a_head(variant: Variant) -> None:
    """Scale the output of one head by 1 + 1e-4."""
    change_heads(variant, "middle", lambda value: scale_head(value, 1 + 1e-4))


@fault(starts="attention first", causes="code")
def heads_in_another_order(variant: Variant) -> None:
    """Join the heads in reverse."""
    change_heads(variant, "first", lambda value: value.flip(2))


@fault(starts="attention middle", causes="code")
def attention_dropout_left_on(variant: Variant) -> None:
    """Drop a tenth of the attention weights in one layer."""

    def attend(original: Any, module: Any, *qkv: Any, attention_mask: Any, **kwargs: Any) -> Any:
        torch.manual_seed(0)
        return original(module, *qkv, attention_mask, **kwargs | {"dropout": 0.1})

    replace_attention(variant, "attention", "middle", attend)


@fault(starts="attention last", causes="code")
def scores_capped(variant: Variant) -> None:
    """Soft-cap the queries at ten, as some models do with scores."""

    def attend(original: Any, module: Any, q: Any, *kv: Any, attention_mask: Any, **kw: Any) -> Any:
        return original(module, 10 * torch.tanh(q / 10), *kv, attention_mask, **kw)

    replace_attention(variant, "attention", "last", attend)


@fault(starts="attention first", causes="code", families=("llama",))
def key_heads_repeated_in_blocks(variant: Variant) -> None:
    """Share the key heads among the query heads in another order: 0 1 0 1 for 0 0 1 1."""

    def attend(original: Any, module: Any, q: Any, *kv: Any, attention_mask: Any, **kw: Any) -> Any:
        groups, heads = module.num_key_value_groups, q.shape[1]
        order = torch.arange(heads).view(groups, -1).t().reshape(-1)
        value, weights = original(module, q[:, order], *kv, attention_mask, **kw)
        return value[:, :, order.argsort()], weights

    replace_attention(variant, "attention", None, attend)


@fault(starts="attention first", causes="code", families=("llama",))
def rotation_the_other_way(variant: Variant) -> None:
    """Turn queries and keys by the negative angle."""
    rotate = sys.modules[type(variant.clean).__module__].rotate_half
    patch_rotary(variant, "rotate_half", lambda x: -rotate(x))


@fault(starts="attention first", causes="code", families=("llama",))
def rotation_of_neighbours(variant: Variant) -> None:
    """Rotate neighbouring channels together: the other rotary convention."""

    def rotate(x: torch.Tensor) -> torch.Tensor:
        return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)

    patch_rotary(variant, "rotate_half", rotate)


@fault(starts="attention first", causes="code", families=("llama",))
def keys_not_rotated(variant: Variant) -> None:
    """Do not rotate the keys."""
    rotate = sys.modules[type(variant.clean).__module__].apply_rotary_pos_emb

    def apply(q: Any, k: Any, *args: Any, **kwargs: Any) -> Any:
        return rotate(q, k, *args, **kwargs)[0], k

    patch_rotary(variant, "apply_rotary_pos_emb", apply)
