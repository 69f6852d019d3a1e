"""Padded batches: harmless changes of attention, and faults that hide among them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from benchmarks.faults.fault import benign, fault
from benchmarks.faults.positions import change, left_padded, make_positions
from benchmarks.faults.probe import SENTENCE, SHORT, Probe
from benchmarks.faults.variant import Variant

_CAUSAL = ("gpt2", "llama")
_MASKS = ("create_causal_mask", "create_bidirectional_mask")


def padded(variant: Variant, on_the_left: bool) -> Probe:
    """Use two prompts of different length; the decoder of T5 has padding of its own."""
    rows = [variant.tokenizer(text)["input_ids"] for text in (SENTENCE, SHORT)]
    prompt = pad(rows, variant.clean.config.pad_token_id, on_the_left)
    if variant.roles.family == "t5" and variant.probe.kind == "trace":
        decoder = pad([[0, 70, 71, 72], [0, 73]], 0, on_the_left=False)
        prompt |= {f"decoder_{name}": tensor for name, tensor in decoder.items()}
    return replace(variant.probe, prompt=prompt)


def pad(rows: list[list[int]], pad_id: int, on_the_left: bool) -> dict[str, torch.Tensor]:
    """Return ids and mask of prompts that are padded to the same length."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad_id), torch.zeros(len(rows), width).long()
    for index, row in enumerate(rows):
        real = slice(width - len(row), width) if on_the_left else slice(len(row))
        ids[index, real], mask[index, real] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


padded_left = functools.partial(padded, on_the_left=True)
padded_right = functools.partial(padded, on_the_left=False)


def eager(variant: Variant) -> None:
    """Use transformers' own attention."""
    variant.config._attn_implementation = "eager"


def wrap_masks(variant: Variant, wrap: Callable[..., Any]) -> None:
    """Make masks by ``wrap(original, **keywords)`` in the file that defines the model."""
    file = sys.modules[type(variant.clean).__module__]
    for name in _MASKS:
        if hasattr(file, name):
            made = functools.partial(wrap, getattr(file, name))
            variant.hold(mock.patch.object(file, name, made))


def as_floats(original: Callable[..., Any], lowest: float, **keywords: Any) -> Any:
    """Make a mask of zeros and ``lowest`` instead of booleans."""
    made = original(**keywords)
    return made if made is None else torch.zeros(made.shape).masked_fill(~made, lowest)


def hide_first(original: Callable[..., Any], **keywords: Any) -> Any:
    """Make a mask that hides the first real token of each padded prompt."""
    shown = keywords["attention_mask"]
    if shown is not None and not shown.all() and shown.shape[1] > 4:
        shown = shown.clone()
        for row in shown:
            row[int(row.argmax())] &= bool(row.all())
    return original(**keywords | {"attention_mask": shown})


@benign(golden=padded_left)
def padded_left_and_eager(variant: Variant) -> None:
    """Use transformers' own attention for a batch that is padded on the left."""
    eager(variant)


@benign(golden=padded_right, kinds=("trace",))
def padded_right_and_eager(variant: Variant) -> None:
    """Use transformers' own attention for a batch that is padded on the right."""
    eager(variant)


@benign(golden=padded_left, kinds=("trace",))
def padded_left_and_infinite_masks(variant: Variant) -> None:
    """Pass masks of zero and minus infinity, on the left without any key for some queries."""
    wrap_masks(variant, functools.partial(as_floats, lowest=-torch.inf))


@benign(golden=padded_right, kinds=("trace",))
def padded_right_and_float_masks(variant: Variant) -> None:
    """Pass masks of zero and the lowest number."""
    wrap_masks(variant, functools.partial(as_floats, lowest=torch.finfo(torch.float32).min))


@benign(golden=padded_right, kinds=("trace",))  # BERT pools the first token, on the left padding
def padded_with_another_token(variant: Variant) -> None:
    """Put another token into the padding."""
    prompt = variant.probe.prompt
    ids = prompt["input_ids"].masked_fill(prompt["attention_mask"] == 0, 100)
    change(variant, input_ids=ids)


@fault(starts="stack", causes=("mask", "code"), golden=padded_left, kinds=("trace",))
def the_first_token_after_padding_is_hidden(variant: Variant) -> None:
    """Make masks that hide the first real token of the padded prompt, and use eager attention."""
    eager(variant)
    wrap_masks(variant, hide_first)


@fault(starts=("prompt", "model"), causes="mask", golden=padded_left, kinds=("trace",))
def the_padding_changes_sides(variant: Variant) -> None:
    """Pad the batch on the other side, and use eager attention."""
    eager(variant)
    variant.probe = padded_right(variant)


@fault(
    starts=("prompt", "model"),
    causes="positions",
    families=_CAUSAL,
    golden=left_padded,
    kinds=("trace",),
)
def eager_positions_count_the_padding(variant: Variant) -> None:
    """Count positions through the padding, and use eager attention."""
    eager(variant)
    ids = variant.probe.prompt["input_ids"]
    change(variant, position_ids=torch.arange(ids.shape[1]).expand_as(ids).clone())


@fault(
    starts="stack",
    causes=("positions", "code"),
    families=_CAUSAL,
    golden=left_padded,
    kinds=("trace",),
)
def the_stack_counts_the_padding(variant: Variant) -> None:
    """Let the stack's forward count the padding, and use eager attention."""
    eager(variant)
    make_positions(variant, lambda positions: torch.arange(positions.shape[1]).expand_as(positions))
