"""Record what went into the model: ids, masks, digests of pictures, settings, interventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from pytest_nnsight.capture.callbacks import callback_name, code_digest
from pytest_nnsight.capture.prompts import PreparedPrompt
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.capture.values import TokenRows, pieces_of, rows_of, tensor_digests
from pytest_nnsight.run import Prompt


def prompt_record(
    model: Any,
    prepared: PreparedPrompt,
    recorder: Recorder,
    settings: Mapping[str, Any],
    intervene: Callable[..., Any] | None,
) -> Prompt:
    """Return the record of a prompt, from the tensors that reached the model."""
    entered = recorder.entered or {}
    token_ids = prompt_ids(entered, prepared)
    others = {name: tensor for name, tensor in entered.items() if name != "input_ids"}
    return Prompt(
        text=prepared.text,
        token_ids=token_ids,
        pieces=pieces_of(model, token_ids),
        tensors={name: rows_of(tensor) for name, tensor in sorted(others.items())},
        digests=prompt_digests(recorder.digests, prepared),
        is_batch=prepared.is_batch,
        generation=plain_settings(settings),
        intervention=callback_name(intervene),
        intervention_code=code_digest(intervene),
    )


def prompt_ids(entered: Mapping[str, torch.Tensor], prepared: PreparedPrompt) -> TokenRows:
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


def with_prompt_ids(model: Any, prepared: PreparedPrompt, prompt: Prompt) -> Prompt:
    """Return the record of a scan's prompt, with the ids of the prepared prompt.

    The tensors that reach a scanned model have no numbers to read ids from.
    """
    ids, texts = prepared.keywords.get("input_ids"), prepared.text
    rows = () if ids is None else rows_of(ids)
    if prepared.arguments:
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = tuple(map(tuple, model.tokenizer(texts, verbose=False)["input_ids"]))
    return replace(prompt, token_ids=rows, pieces=pieces_of(model, rows), tensors={})


def prompt_digests(entered: Mapping[str, str], prepared: PreparedPrompt) -> dict[str, str]:
    """Return the digests of all inputs that are not rows of whole numbers, such as pictures.

    A model that generates may pass a picture to one of its parts alone; then the digest is that of
    the prepared prompt.
    """
    requested = {
        name: value
        for name, value in prepared.keywords.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return {**tensor_digests(requested), **entered}


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as a record holds them: plain values, and the class name of an object."""
    return {key: _as_plain(value) for key, value in sorted(settings.items())}


def _as_plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text
