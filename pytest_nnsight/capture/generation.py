"""What a generation is asked for, and where what it returns ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch for one generation and restore its generators afterwards."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def quiet_greedy(module: torch.nn.Module, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Take a checkpoint's sampling defaults out of a greedy call, which would warn of them."""
    quiet = dict(settings)
    if settings["do_sample"]:
        return quiet
    defaults = getattr(module, "generation_config", None)
    for name in ("temperature", "top_p", "top_k", "typical_p", "min_p"):
        if name not in quiet and getattr(defaults, name, None) is not None:
            quiet[name] = None
    return quiet


def end_ids(module: torch.nn.Module, tokenizer: Any) -> set[int]:
    """Return the ids that end a generation, by the checkpoint's settings and the tokenizer."""
    ends: set[int] = set()
    for owner in (getattr(module, "generation_config", None), tokenizer):
        value = getattr(owner, "eos_token_id", None)
        ends.update(value if isinstance(value, list) else () if value is None else (value,))
    return ends


def first_new(module: torch.nn.Module, rows: torch.Tensor) -> int:
    """Return where the new ids of an encoder-decoder begin: Whisper leaves the start token out."""
    start = getattr(getattr(module, "config", None), "decoder_start_token_id", None)
    return int(start is None or bool((rows[:, 0] == start).all()))


def until_end(row: list[int], ends: set[int]) -> list[int]:
    """Cut what comes after the first end token: a batch pads its finished rows."""
    stop = next((index for index, token in enumerate(row) if token in ends), len(row))
    return row[: stop + 1]
