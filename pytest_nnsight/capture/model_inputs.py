"""Record what went into the model: ids, masks, digests of pictures, settings, interventions."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pytest_nnsight.capture.prompts import PreparedPrompt
from pytest_nnsight.run import Prompt
from pytest_nnsight.summary.summarizer import summarize

if TYPE_CHECKING:
    from pytest_nnsight.capture.recorder import Recorder

TokenRows = tuple[tuple[int, ...], ...]


def prompt_record(
    model: Any,
    prepared: PreparedPrompt,
    recorder: Recorder,
    settings: Mapping[str, Any],
    intervene: Callable[..., Any] | None,
) -> Prompt:
    """Return the record of a prompt, by what really entered the model."""
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
        generation=plain(settings),
        intervention=intervention_name(intervene),
        intervention_code=intervention_code(intervene),
    )


def prompt_ids(entered: Mapping[str, torch.Tensor], prepared: PreparedPrompt) -> TokenRows:
    """Return the ids that reached the model, row by row, without those that the mask hides.

    An encoder-decoder that generates gives its prompt to the encoder alone; then they are the ids
    that were asked for.
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
    """Return the record of a scan's prompt, whose ids are those that were asked for.

    Tensors that enter a scanned model have no numbers to read ids from.
    """
    ids, texts = prepared.keywords.get("input_ids"), prepared.text
    rows = () if ids is None else rows_of(ids)
    if prepared.arguments:
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = tuple(map(tuple, model.tokenizer(texts, verbose=False)["input_ids"]))
    return replace(prompt, token_ids=rows, pieces=pieces_of(model, rows), tensors={})


def prompt_width(entered: Mapping[str, torch.Tensor], prepared: PreparedPrompt) -> int:
    """Return how many ids of each returned row are the prompt, padding included."""
    ids = entered.get("input_ids")
    return max(prepared.token_counts) if ids is None else int(ids.shape[1])


def rows_of(tensor: torch.Tensor) -> TokenRows:
    """Return a tensor of whole numbers in two dimensions as rows of numbers."""
    return tuple(tuple(int(number) for number in row) for row in tensor.cpu().tolist())


def pieces_of(model: Any, token_ids: TokenRows) -> tuple[tuple[str, ...], ...]:
    """Return the text of each id; nothing where the model has no tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or not token_ids:
        return ()
    return tuple(tuple(tokenizer.batch_decode([[i] for i in row])) for row in token_ids)


def prompt_digests(entered: Mapping[str, str], prepared: PreparedPrompt) -> dict[str, str]:
    """Return the digests of all inputs that are no rows of whole numbers, such as pictures.

    A model that generates may give a picture to one of its parts alone; then it is the digest of
    what was asked for.
    """
    asked = {
        name: value
        for name, value in prepared.keywords.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return {**digests_of(asked), **entered}


def digests_of(named: Mapping[str, Any]) -> dict[str, str]:
    """Return dtype, shape and checksum of each tensor among some values, by name."""
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    return {name: _digest(tensor) for name, tensor in sorted(tensors.items())}


def _digest(tensor: torch.Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype} {list(tensor.shape)} {summarize([tensor])[0].digest}"


def intervention_name(intervene: Callable[..., Any] | None) -> str | None:
    """Return the name of an intervention as a record holds it."""
    return None if intervene is None else getattr(intervene, "__name__", type(intervene).__name__)


def intervention_code(intervene: Callable[..., Any] | None) -> str:
    """Return a digest of what an intervention does; empty where its source is not available.

    It is over the source without comments, and the plain values and tensors that it uses.
    """
    if intervene is None:
        return ""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(intervene)))
        around = inspect.getclosurevars(intervene)
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""
    used = {**around.globals, **around.nonlocals}
    values = [f"{name}={_as_text(value)}" for name, value in sorted(used.items())]
    defaults = [_as_text(value) for value in getattr(intervene, "__defaults__", None) or ()]
    text = "\n".join([ast.unparse(tree), *values, *defaults])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _as_text(value: Any) -> str:
    """Write a value so that equal values give equal text in every process."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {summarize([value])[0].digest}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_text, value))}]"
    return repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as a record holds them; of an object, such as a streamer, its class."""
    return {key: _as_plain(value) for key, value in sorted(settings.items())}


def _as_plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text
