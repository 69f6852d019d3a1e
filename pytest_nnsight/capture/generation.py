"""What a generation is asked for, and where what it returns ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.entries import pieces_of
from pytest_nnsight.run import Generated


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


def stopped(prompts: int) -> Generated:
    """Return what a generation gives that an intervention has stopped: no ids, no text."""
    return Generated(token_ids=((),) * prompts, text=("",) * prompts, pieces=((),) * prompts)


def until_end(row: list[int], ends: set[int]) -> list[int]:
    """Cut what comes after the first end token: a batch pads its finished rows."""
    stop = next((index for index, token in enumerate(row) if token in ends), len(row))
    return row[: stop + 1]


def generated(
    model: Any,
    rows: Sequence[torch.Tensor] | None,
    margins: Sequence[torch.Tensor],
    start: int,
    settings: Mapping[str, Any],
    prompts: int,
) -> Generated:
    """Record the ids behind the first ``start`` of each row, to its end, and each step's margins.

    ``margins`` is ``[rows]`` for each step; of beams there are more than rows, and none is kept.
    ``rows`` is ``None`` where an intervention has stopped the run.
    """
    if rows is None:
        return stopped(prompts)
    module, tokenizer = nnsight_api.torch_module(model), getattr(model, "tokenizer", None)
    ends = _given_ends(settings) or end_ids(module, tokenizer)
    token_ids = tuple(tuple(until_end(row[start:].tolist(), ends)) for row in rows)
    texts = [
        tokenizer.decode(list(row), skip_special_tokens=True) if tokenizer is not None else ""
        for row in token_ids
    ]
    steps = torch.stack(list(margins), 1).cpu() if margins else None
    of_rows = steps is not None and steps.shape[0] == len(token_ids)
    return Generated(
        token_ids=token_ids,
        text=tuple(texts),
        pieces=pieces_of(model, token_ids),
        margins=tuple(
            row[: len(ids)].numpy().astype("<f4").tobytes()
            for row, ids in zip(steps if steps is not None and of_rows else (), token_ids)  # noqa: B905
        ),
    )


def _given_ends(settings: Mapping[str, Any]) -> set[int]:
    """Return the ids that a test itself lets a generation end with."""
    value = settings.get("eos_token_id")
    return set(value if isinstance(value, list | tuple) else () if value is None else (value,))
