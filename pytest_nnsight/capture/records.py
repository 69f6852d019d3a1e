"""Records of a run: what went into the model, and which tokens it generated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.callbacks import callback_name, code_digest
from pytest_nnsight.capture.prompts import PreparedPrompt
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.capture.values import TokenRows, pieces_of, rows_of, tensor_digests
from pytest_nnsight.run import Generated, Prompt


def prompt_record(
    model: Any,
    prepared: PreparedPrompt,
    recorder: Recorder,
    settings: Mapping[str, Any],
    intervene: Callable[..., Any] | None,
) -> Prompt:
    """Return the record of a prompt, from the tensors that reached the model."""
    entered = recorder.entered or {}
    if recorder.summarizer.has_numbers:
        token_ids = _entered_ids(entered, prepared)
    else:
        token_ids = _scanned_ids(model, prepared)
    # A model that generates may pass a picture to one of its parts alone.
    requested = {
        name: value
        for name, value in prepared.keywords.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    others = {name: tensor for name, tensor in entered.items() if name != "input_ids"}
    return Prompt(
        text=prepared.text,
        token_ids=token_ids,
        pieces=pieces_of(model, token_ids),
        tensors={name: rows_of(tensor) for name, tensor in sorted(others.items())},
        digests=tensor_digests(requested) | recorder.digests,
        is_batch=prepared.is_batch,
        generation={key: _as_plain(value) for key, value in sorted(settings.items())},
        intervention=callback_name(intervene),
        intervention_code=code_digest(intervene),
    )


def _entered_ids(entered: Mapping[str, torch.Tensor], prepared: PreparedPrompt) -> TokenRows:
    """Return the ids that reached the model, row by row, without those that the mask hides.

    An encoder-decoder that generates passes its prompt to the encoder alone; then the ids are those
    of the prepared prompt.
    """
    ids, mask = entered.get("input_ids"), entered.get("attention_mask")
    if ids is None:
        ids, mask = prepared.keywords.get("input_ids"), prepared.keywords.get("attention_mask")
    if ids is None or ids.is_floating_point() or ids.ndim != 2:
        return ()
    if mask is None or mask.shape != ids.shape:
        return rows_of(ids)
    shown = mask.cpu().bool()
    return tuple(tuple(row[show].tolist()) for row, show in zip(ids.cpu(), shown, strict=True))


def _scanned_ids(model: Any, prepared: PreparedPrompt) -> TokenRows:
    """Return the ids of the prepared prompt; the tensors that reach a scanned model have none."""
    if not prepared.arguments:
        ids = prepared.keywords.get("input_ids")
        return () if ids is None else rows_of(ids)
    texts = [prepared.text] if isinstance(prepared.text, str) else list(prepared.text)
    return tuple(map(tuple, model.tokenizer(texts, verbose=False)["input_ids"]))


def _as_plain(value: Any) -> Any:
    """Return a setting as a plain value, or the class name of an object."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text


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
