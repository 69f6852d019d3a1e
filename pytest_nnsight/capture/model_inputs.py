"""Record what went into the model: ids, masks, digests of pictures, settings, interventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
