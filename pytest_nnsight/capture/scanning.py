"""A run of structure, shapes and dtypes alone: what `nnsight_capture.scan` makes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.entries import Rows, pieces_of, rows_of
from pytest_nnsight.capture.prompts import Request
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import Prompt


def asked(model: Any, request: Request, prompt: Prompt) -> Prompt:
    """Return the record of a prompt with the ids that were asked for.

    Those that enter a model that is scanned have no numbers.
    """
    ids = _ids(getattr(model, "tokenizer", None), request)
    return replace(prompt, token_ids=ids, pieces=pieces_of(model, ids), tensors={})


def _ids(tokenizer: Any, request: Request) -> Rows:
    if request.arguments:
        texts = [request.text] if isinstance(request.text, str) else list(request.text)
        return tuple(tuple(row) for row in tokenizer(texts, verbose=False)["input_ids"])
    ids = request.keywords.get("input_ids")
    return () if ids is None else rows_of(ids)


def need_weights(model: Any) -> None:
    """Raise `UsageError` for a model without weights, which computes nothing."""
    if nnsight_api.is_skeleton(model):
        raise UsageError(
            "the model has no weights (--nnsight-device-map meta): nnsight_capture.scan takes its "
            "structure and shapes; leave the option out for numbers"
        )
