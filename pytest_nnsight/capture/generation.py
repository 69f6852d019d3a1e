"""Settings of a generation, and the record of its new tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.values import pieces_of
from pytest_nnsight.run import Generated


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed torch for one generation and restore its generators afterwards."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def generate_settings(module: torch.nn.Module, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings to call ``generate`` with.

    In a greedy call they unset the checkpoint's defaults for sampling, of which transformers warns.
    """
    changed = dict(settings)
    if settings["do_sample"]:
        return changed
    defaults = getattr(module, "generation_config", None)
    for name in ("temperature", "top_p", "top_k", "typical_p", "min_p"):
        if name not in changed and getattr(defaults, name, None) is not None:
            changed[name] = None
    return changed


def _end_ids(module: torch.nn.Module, tokenizer: Any, settings: Mapping[str, Any]) -> set[int]:
    """Return the end tokens that the test passes, else those of the checkpoint and tokenizer."""
    ids = [settings.get("eos_token_id")]
    if ids[0] in (None, [], ()):
        owners = (getattr(module, "generation_config", None), tokenizer)
        ids = [getattr(owner, "eos_token_id", None) for owner in owners]
    lists = [each if isinstance(each, list | tuple) else [each] for each in ids]
    return {token for each in lists for token in each if token is not None}


def _start(
    module: torch.nn.Module, ids: torch.Tensor, prompt_width: int, settings: Mapping[str, Any]
) -> int:
    """Return how many of the returned ids are not new: the prompt, or the decoder's start token.

    Whisper returns no start token.
    """
    if not getattr(getattr(module, "config", None), "is_encoder_decoder", False):
        return prompt_width
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


def generated_record(
    model: Any,
    ids: torch.Tensor | None,
    margins: Sequence[torch.Tensor],
    prompt_width: int,
    settings: Mapping[str, Any],
    prompts: int,
) -> Generated:
    """Return the record of the new ids among ``ids [prompts, tokens]``, with the logit margins.

    An id after the first end token is padding of a prompt that ended before the others.
    ``margins`` has a tensor ``[prompts]`` for each step; with beams it has one for each beam, and
    they are not recorded. ``ids`` is ``None`` where an intervention stopped the run.
    """
    if ids is None:
        return Generated(token_ids=((),) * prompts, text=("",) * prompts, pieces=((),) * prompts)
    module, tokenizer = nnsight_api.torch_module(model), getattr(model, "tokenizer", None)
    ends = _end_ids(module, tokenizer, settings)
    rows = ids[:, _start(module, ids, prompt_width, settings) :].tolist()
    lengths = [next((i for i, token in enumerate(row, 1) if token in ends), None) for row in rows]
    token_ids = tuple(tuple(row[:end]) for row, end in zip(rows, lengths, strict=True))
    texts = [
        tokenizer.decode(list(row), skip_special_tokens=True) if tokenizer is not None else ""
        for row in token_ids
    ]
    steps = torch.stack(list(margins), 1).cpu() if margins else torch.empty(0)
    has_beams = len(steps) != len(token_ids)
    return Generated(
        token_ids=token_ids,
        text=tuple(texts),
        pieces=pieces_of(model, token_ids),
        margins=tuple(
            row[: len(new_ids)].numpy().astype("<f4").tobytes()
            for row, new_ids in zip(() if has_beams else steps, token_ids, strict=False)
        ),
    )
