"""Settings of a generation, and the record of the tokens that it returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.model_inputs import pieces_of
from pytest_nnsight.run import Generated


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch for one generation and restore its generators afterwards."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def quiet_greedy(module: torch.nn.Module, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Unset a checkpoint's sampling defaults, of which transformers warns in a greedy call."""
    quiet = dict(settings)
    if settings["do_sample"]:
        return quiet
    defaults = getattr(module, "generation_config", None)
    for name in ("temperature", "top_p", "top_k", "typical_p", "min_p"):
        if name not in quiet and getattr(defaults, name, None) is not None:
            quiet[name] = None
    return quiet


def end_ids(module: torch.nn.Module, tokenizer: Any) -> set[int]:
    """Return the end tokens of the checkpoint's generation config and of the tokenizer."""
    ends: set[int] = set()
    for owner in (getattr(module, "generation_config", None), tokenizer):
        value = getattr(owner, "eos_token_id", None)
        ends.update(value if isinstance(value, list) else () if value is None else (value,))
    return ends


def first_new(module: torch.nn.Module, ids: torch.Tensor, settings: Mapping[str, Any]) -> int:
    """Return where the new ids of an encoder-decoder begin; Whisper returns no start token."""
    start = _start_token(module, settings)
    return int(start is None or bool(torch.isin(ids[:, 0], torch.as_tensor(start)).all()))


def _start_token(module: torch.nn.Module, settings: Mapping[str, Any]) -> Any:
    """Return the id, or the id for each prompt, that a decoder starts with.

    ``generate`` reads its own settings first, then the generation config, which is a file of its
    own; that of the model only fills in where there is no such file.
    """
    config = settings.get("generation_config") or getattr(module, "generation_config", None)
    for name in ("decoder_start_token_id", "bos_token_id"):
        token = settings.get(name, getattr(config, name, None))
        if token is not None:
            return token
    return getattr(getattr(module, "config", None), "decoder_start_token_id", None)


def stopped(prompts: int) -> Generated:
    """Return the record of a generation that an intervention stopped: no ids, no text."""
    return Generated(token_ids=((),) * prompts, text=("",) * prompts, pieces=((),) * prompts)


def until_end(row: list[int], ends: set[int]) -> list[int]:
    """Drop the ids after the first end token: a batch pads its finished rows."""
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
    """Return the record of the ids after the first ``start`` of each row, and of the margins.

    ``margins`` has a tensor ``[rows]`` for each step; with beams it has more rows, and none is
    kept. ``rows`` is ``None`` where an intervention stopped the run.
    """
    if rows is None:
        return stopped(prompts)
    module, tokenizer = nnsight_api.torch_module(model), getattr(model, "tokenizer", None)
    ends = _test_end_ids(settings) or end_ids(module, tokenizer)
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


def _test_end_ids(settings: Mapping[str, Any]) -> set[int]:
    """Return the end tokens that the test itself asks for."""
    value = settings.get("eos_token_id")
    return set(value if isinstance(value, list | tuple) else () if value is None else (value,))
