"""Helpers of `nnsight_capture.scan`, a run without numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.model_inputs import TokenRows, pieces_of, rows_of
from pytest_nnsight.capture.prompts import PreparedPrompt
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import Prompt


def with_prompt_ids(model: Any, prepared: PreparedPrompt, prompt: Prompt) -> Prompt:
    """Return the record of a prompt with the ids that were asked for.

    Tensors that enter a scanned model have no numbers to read ids from.
    """
    ids = _ids(getattr(model, "tokenizer", None), prepared)
    return replace(prompt, token_ids=ids, pieces=pieces_of(model, ids), tensors={})


def _ids(tokenizer: Any, prepared: PreparedPrompt) -> TokenRows:
    if prepared.arguments:
        texts = [prepared.text] if isinstance(prepared.text, str) else list(prepared.text)
        return tuple(tuple(row) for row in tokenizer(texts, verbose=False)["input_ids"])
    ids = prepared.keywords.get("input_ids")
    return () if ids is None else rows_of(ids)


def need_weights(model: Any) -> None:
    """Raise `UsageError` for a model without weights."""
    if nnsight_api.is_skeleton(model):
        raise UsageError(
            "the model has no weights (--nnsight-device-map meta): nnsight_capture.scan takes its "
            "structure and shapes; leave the option out for numbers"
        )
