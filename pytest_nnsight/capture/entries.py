"""What entered the model, as the record of a prompt keeps it."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pytest_nnsight.capture.prompts import Request
from pytest_nnsight.summary.summarizer import summarize

Rows = tuple[tuple[int, ...], ...]


def prompt_ids(entered: Mapping[str, torch.Tensor], request: Request) -> Rows:
    """Return the ids that reached the model, row by row, without those the mask hides.

    An encoder-decoder that generates hands its prompt to the encoder alone; then it is the ids
    that were asked for.
    """
    ids, mask = entered.get("input_ids"), entered.get("attention_mask")
    if ids is None:
        ids, mask = request.keywords.get("input_ids"), request.keywords.get("attention_mask")
    if ids is None or ids.is_floating_point() or ids.ndim != 2:
        return ()
    if mask is None or mask.shape != ids.shape:
        return rows_of(ids)
    shown = mask.cpu().bool()
    return tuple(tuple(row[show].tolist()) for row, show in zip(ids.cpu(), shown, strict=True))


def rows_of(tensor: torch.Tensor) -> Rows:
    """Return a tensor of whole numbers in two dimensions as rows of numbers."""
    return tuple(tuple(int(number) for number in row) for row in tensor.cpu().tolist())


def prompt_digests(entered: Mapping[str, str], request: Request) -> dict[str, str]:
    """Return the digests of what reached the model that is no row of whole numbers.

    A model that generates may hand a picture or a sound to a part of it alone; then it is what was
    asked for.
    """
    asked = {
        name: value
        for name, value in request.keywords.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return {**digests_of(asked), **entered}


def digests_of(named: Mapping[str, Any]) -> dict[str, str]:
    """Return dtype, shape and checksum of each tensor: pictures, sound, embeddings."""
    tensors = {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    return {name: _digest(tensor) for name, tensor in sorted(tensors.items())}


def _digest(tensor: torch.Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype} {list(tensor.shape)} {summarize([tensor])[0].digest}"


def pieces_of(model: Any, token_ids: Rows) -> tuple[tuple[str, ...], ...]:
    """Return the text of each id by itself; nothing where the model has no tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or not token_ids:
        return ()
    return tuple(tuple(tokenizer.batch_decode([[i] for i in row])) for row in token_ids)


def intervention_name(intervene: Callable[..., Any] | None) -> str | None:
    """Return the name by which a record calls an intervention."""
    return None if intervene is None else getattr(intervene, "__name__", type(intervene).__name__)


def intervention_code(intervene: Callable[..., Any] | None) -> str:
    """Return a digest of what an intervention does; empty where its source is not at hand.

    Its source without comments, and the plain values and tensors that it uses from around it.
    """
    if intervene is None:
        return ""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(intervene)))
        around = inspect.getclosurevars(intervene)
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""
    used = {**around.globals, **around.nonlocals}
    values = [f"{name}={_plainly(value)}" for name, value in sorted(used.items())]
    defaults = [_plainly(value) for value in getattr(intervene, "__defaults__", None) or ()]
    text = "\n".join([ast.unparse(tree), *values, *defaults])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plainly(value: Any) -> str:
    """Write a value so that equal values give equal text in every process."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {summarize([value])[0].digest}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plainly, value))}]"
    return repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as a record keeps them; an object, as a streamer, by its class alone."""
    return {key: _as_plain(value) for key, value in sorted(settings.items())}


def _as_plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text


def prompt_width(entered: Mapping[str, torch.Tensor], request: Request) -> int:
    """Return how many ids of each returned row are the prompt, padding included."""
    ids = entered.get("input_ids")
    return max(request.rows) if ids is None else int(ids.shape[1])
