"""Faults in positions that are passed or computed incorrectly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.faults.fault import fault
from benchmarks.faults.probe import SENTENCE, SHORT, Probe
from benchmarks.faults.variant import Variant

passed = functools.partial(
    fault,
    starts=("prompt", "model"),
    causes="positions",
    families=("gpt2", "llama", "bert"),
    kinds=("trace",),
)
made = functools.partial(
    fault, starts="stack", causes=("positions", "code"), families=("gpt2", "llama")
)


def with_positions(variant: Variant) -> Probe:
    """Use token ids and their positions instead of text."""
    ids = torch.tensor([variant.tokenizer(variant.probe.prompt)["input_ids"]])
    positions = torch.arange(ids.shape[1])[None]
    prompt = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": positions,
    }
    return replace(variant.probe, prompt=prompt)


def left_padded(variant: Variant) -> Probe:
    """Use two prompts of different length, padded on the left, with correct positions."""
    rows = [variant.tokenizer(text)["input_ids"] for text in (SENTENCE, SHORT)]
    width = max(len(row) for row in rows)
    pad = variant.clean.config.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    prompt = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return replace(variant.probe, prompt=prompt)


def change(variant: Variant, **tensors: torch.Tensor) -> None:
    """Use other tensors."""
    variant.probe = replace(variant.probe, prompt=variant.probe.prompt | tensors)


def make_positions(variant: Variant, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change the positions in the stack's own forward, whether passed or computed there."""

    def forward(module: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        positions = kwargs.get("position_ids")
        if positions is None:
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            cache = kwargs.get("past_key_values")
            past = cache.get_seq_length() if cache is not None else 0
            positions = torch.arange(past, past + ids.shape[1])[None]
        return original(*args, **kwargs | {"position_ids": function(positions)})

    variant.replace_forward("stack", forward)


@passed(golden=with_positions)
def positions_from_one(variant: Variant) -> None:
    """Count positions from one, not from zero."""
    change(variant, position_ids=variant.probe.prompt["position_ids"] + 1)


@passed(golden=with_positions)
def positions_all_zero(variant: Variant) -> None:
    """Give every token the same position."""
    change(variant, position_ids=torch.zeros_like(variant.probe.prompt["position_ids"]))


@passed(golden=with_positions)
def positions_start_again(variant: Variant) -> None:
    """Start again at zero in the middle, as packed sequences do."""
    positions = variant.probe.prompt["position_ids"]
    half = positions.shape[1] // 2
    change(variant, position_ids=positions % (positions.shape[1] - half))


@passed(families=("gpt2", "llama"), golden=left_padded)
def positions_count_the_padding(variant: Variant) -> None:
    """Count positions through the padding, as nnsight 0.7 and older do."""
    ids = variant.probe.prompt["input_ids"]
    change(variant, position_ids=torch.arange(ids.shape[1]).expand_as(ids).clone())


@made()
def the_stack_shifts_positions(variant: Variant) -> None:
    """Add one to all positions in the stack's forward."""
    make_positions(variant, lambda positions: positions + 1)


@made(kinds=("generate",))
def positions_stand_still_in_decoding(variant: Variant) -> None:
    """Give each new token the position zero, as if the cache were empty."""

    def restart(positions: torch.Tensor) -> torch.Tensor:
        return positions if positions.shape[1] > 1 else torch.zeros_like(positions)

    make_positions(variant, restart)


@made(kinds=("generate",))
def positions_one_ahead_in_decoding(variant: Variant) -> None:
    """Give each new token the position of the one after it."""
    make_positions(variant, lambda positions: positions + (positions.shape[1] == 1))


@fault(starts="positions", causes="code", families=("llama",))
def rotary_angles_in_bfloat16(variant: Variant) -> None:
    """Compute the rotary angles in bfloat16, which cannot represent large positions."""
    rotary = variant.at("positions")

    def forward(module: Any, original: Any, x: torch.Tensor, position_ids: Any) -> Any:
        angles = position_ids[..., None].bfloat16() * rotary.inv_freq.bfloat16()
        both = torch.cat((angles, angles), -1).to(x.dtype)
        return both.cos(), both.sin()

    variant.replace_forward("positions", forward)
