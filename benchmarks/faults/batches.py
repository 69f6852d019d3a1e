"""Batches, padding, chunks and no cache: other shapes, equal values where they overlap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from benchmarks.faults.captured import Captured
from benchmarks.faults.fault import Values, benign
from benchmarks.faults.probe import SENTENCE, SHORT
from benchmarks.faults.variant import Variant
from pytest_nnsight.run import ROOT

_CAUSAL = ("gpt2", "llama")


def cut(tensor: torch.Tensor, shape: torch.Size, takes_last: bool, is_batch: bool) -> torch.Tensor:
    """Cut a larger tensor to a shape: the first row of a batch, the first or last tokens."""
    for axis, size in enumerate(shape):
        takes_end = takes_last and not (is_batch and axis == 0)
        start = tensor.shape[axis] - size if takes_end else 0
        tensor = tensor.narrow(axis, start, size)
    return tensor.contiguous()


def aligned(
    golden: Captured, received: Captured, takes_last: bool, is_batch: bool
) -> tuple[Values, Values]:
    """Cut the received tensors to the golden's shapes, call by call."""
    before: dict[str, Mapping[str, torch.Tensor]] = {}
    now: dict[str, Mapping[str, torch.Tensor]] = {}
    for key, tensors in golden.calls.items():
        name = f"{key[0]}#{key[1]}"
        before[name] = tensors
        now[name] = {
            at: cut(received.calls[key][at], old.shape, takes_last, is_batch)
            for at, old in tensors.items()
        }
    return before, now


def first_row(golden: Captured, received: Captured) -> tuple[Values, Values]:
    """Take the first row, and its first tokens."""
    return aligned(golden, received, takes_last=False, is_batch=True)


def first_row_after_padding(golden: Captured, received: Captured) -> tuple[Values, Values]:
    """Take the first row, and its last tokens."""
    return aligned(golden, received, takes_last=True, is_batch=True)


def last_tokens(golden: Captured, received: Captured) -> tuple[Values, Values]:
    """Take the last tokens, which are all that a step with a cache computes."""
    return aligned(golden, received, takes_last=True, is_batch=False)


def joined(golden: Captured, received: Captured) -> tuple[Values, Values]:
    """Join the two visits to every module except the outermost."""
    before: dict[str, Mapping[str, torch.Tensor]] = {}
    now: dict[str, Mapping[str, torch.Tensor]] = {}
    for (path, visit), tensors in golden.calls.items():
        if path == ROOT or visit:
            continue
        before[path] = tensors
        visits = received.calls[(path, 0)], received.calls[(path, 1)]
        now[path] = {at: torch.cat([visit[at] for visit in visits], 1) for at in tensors}
    return before, now


@benign(kinds=("trace",), align=first_row)
def a_batch_of_two(variant: Variant) -> None:
    """Use the same prompt twice in one batch."""
    variant.probe = replace(variant.probe, prompt=[variant.probe.prompt] * 2)


@benign(kinds=("trace",), align=first_row)
def a_batch_of_five(variant: Variant) -> None:
    """Use the same prompt five times in one batch."""
    variant.probe = replace(variant.probe, prompt=[variant.probe.prompt] * 5)


@benign(families=_CAUSAL, kinds=("trace",), align=first_row_after_padding)
def a_batch_padded_on_the_left(variant: Variant) -> None:
    """Add a longer prompt to the batch, so that nnsight pads this one."""
    longer = variant.probe.prompt + SENTENCE
    variant.probe = replace(variant.probe, prompt=[variant.probe.prompt, longer])


@benign(families=("bert", "t5"), kinds=("trace",), align=first_row)
def a_batch_padded_on_the_right(variant: Variant) -> None:
    """Add a longer prompt to the batch, so that this one is padded."""
    longer = variant.probe.prompt + " " + SHORT
    variant.probe = replace(variant.probe, prompt=[variant.probe.prompt, longer])


@benign(families=_CAUSAL, kinds=("trace",), align=joined)
def a_prompt_in_two_chunks(variant: Variant) -> None:
    """Feed the prompt in two halves, with a cache between."""

    def forward(module: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        half = kwargs["input_ids"].shape[1] // 2
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"]
        start = original(input_ids=ids[:, :half], attention_mask=mask[:, :half], use_cache=True)
        return original(
            input_ids=ids[:, half:],
            attention_mask=mask,
            past_key_values=start.past_key_values,
            use_cache=True,
        )

    variant.replace_forward("model", forward)


@benign(families=("gpt2", "llama", "t5"), kinds=("generate",), align=last_tokens)
def without_a_cache(variant: Variant) -> None:
    """Generate without a cache: every step computes the whole text again."""
    variant.probe = replace(variant.probe, settings={"use_cache": False})
