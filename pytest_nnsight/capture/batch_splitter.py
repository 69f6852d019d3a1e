"""Split the values of a batch into those of each prompt, without the padding."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.capture.values import by_name, map_tensors
from pytest_nnsight.summary.summarizer import version_of

Parts = list[torch.Tensor]
"""A tensor of the batch, split: one part for each prompt."""


@dataclass(slots=True)
class BatchSplitter:
    """Pass the values of a batch on to one recorder for each prompt, without padding.

    The first dimension counts prompts, or the tokens of all prompts one after another as in a
    mixture of experts. A dimension counts tokens where it is as long as the padded prompt, or as
    the keys of a later step. A tensor that all prompts share, such as positions, is cut to the
    tokens of each.
    """

    recorders: Sequence[Recorder]
    parameters: tuple[str, ...]
    mask: torch.Tensor | None = None
    """``[prompts, tokens]``, false for padding; from the model's last call."""
    width: int = 0
    """Number of tokens of the padded prompt."""
    problem: str = ""
    """Message about a tensor that could not be split with certainty; empty if there is none."""
    _queries: int = 0
    _cache: dict[int, tuple[weakref.ref[torch.Tensor], int, Parts]] = field(default_factory=dict)

    def receive(self, path: str, slot: str, value: Any) -> bool:
        """Split one value of the batch, and pass the parts on; return as `Recorder.receive` does.

        The inputs of the model itself have the mask of each step, and are always needed.
        """
        if slot == "inputs" and (path == "" or self.mask is None):
            arguments, keywords = value  # an encoder may run before the model itself is called
            self._read_mask(by_name(arguments, keywords, self.parameters if path == "" else ()))
        is_unused = path != ""
        for index, recorder in enumerate(self.recorders):
            part = map_tensors(value, lambda t, index=index: self._split(t)[index])  # type: ignore[misc]
            is_unused &= recorder.receive(path, slot, part)
        return is_unused

    def _read_mask(self, named: Mapping[str, Any]) -> None:
        """Read which tokens of each prompt are padding, and how many are new in this step."""
        ids, mask = named.get("input_ids"), named.get("attention_mask")
        ids = named.get("decoder_input_ids") if ids is None else ids
        if isinstance(mask, torch.Tensor) and mask.ndim == 2:
            self.mask = mask.bool().cpu()
        elif self.mask is None and isinstance(ids, torch.Tensor):
            self.mask = torch.ones(ids.shape[:2], dtype=torch.bool)
        if isinstance(ids, torch.Tensor):
            self._queries = ids.shape[1]
            self.width = self.width or self._queries

    def _split(self, tensor: torch.Tensor) -> Parts:
        """Return the parts of a tensor; the same tensors again while it is not changed."""
        version = version_of(tensor)
        cached = self._cache.get(id(tensor))
        if cached is not None and cached[0]() is tensor and cached[1] == version >= 0:
            return cached[2]
        parts = self._parts_of(tensor.detach())
        # Without the callback the cache would keep the parts of every activation.
        forget = partial(lambda key, _: self._cache.pop(key, None), id(tensor))
        self._cache[id(tensor)] = (weakref.ref(tensor, forget), version, parts)
        return parts

    def _parts_of(self, tensor: torch.Tensor) -> Parts:
        count, mask = len(self.recorders), self.mask
        if mask is None or tensor.ndim == 0:
            return [tensor] * count
        keys, queries = mask.shape[1], self._queries or mask.shape[1]
        if tensor.shape[0] == count * queries != count and tensor.ndim < 4:
            tensor = tensor.reshape(count, queries, *tensor.shape[1:])
            shown = [_shown_tokens(row, queries) for row in mask]
            return [_select(tensor[index], 0, tokens) for index, tokens in enumerate(shown)]
        parts = [tensor] * count
        if tensor.shape[0] == count:
            parts = [tensor[index : index + 1] for index in range(count)]
        is_ambiguous = tensor.ndim == 4 and tensor.shape[1] == tensor.shape[2] == keys
        if is_ambiguous and tensor.shape[3] != keys and not bool(mask.all()):
            self.problem = self.problem or (
                f"a tensor {list(tensor.shape)} has as many heads as the padded prompt has tokens, "
                "and cannot be split; make the longest prompt a token longer"
            )
        for dimension in _token_dimensions(parts[0], keys, queries):
            parts = [
                _select(part, dimension, _shown_tokens(mask[index], keys))
                for index, part in enumerate(parts)
            ]
        return parts


def _token_dimensions(tensor: torch.Tensor, keys: int, queries: int) -> list[int]:
    """Return the dimensions that count tokens.

    They are dimension 1 of ``[prompts, tokens]`` of whole numbers and of ``[prompts, tokens,
    hidden]``, 2 of ``[prompts, channels, tokens]`` of a convolution and of ``[prompts, heads,
    tokens, head]``, and both last ones of ``[prompts, heads, queries, keys]``.
    """
    shape = tensor.shape
    if tensor.ndim in (2, 3) and shape[0] == shape[1] == keys:
        return [0, 1]  # queries by keys, the same for all prompts, such as a relative bias
    if tensor.ndim == 1:
        return [0] if shape[0] == keys and not tensor.is_floating_point() else []
    if tensor.ndim == 2:
        return [1] if shape[1] == keys and not tensor.is_floating_point() else []
    if tensor.ndim == 3:
        if shape[1] == keys:
            return [1]
        return [2] if shape[2] == keys and shape[1] != queries else []
    if tensor.ndim == 4:
        if shape[1] == keys and shape[2] != keys:
            return [1]  # queries, before the heads are moved to the front
        of_keys = [3] if shape[3] == keys and shape[2] in (queries, 1) else []
        return ([2] if shape[2] == keys else []) + of_keys
    return []


def _shown_tokens(mask: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return the indices, among the last ``tokens``, of those that are not padding."""
    return mask[-tokens:].nonzero().flatten()


def _select(tensor: torch.Tensor, dimension: int, indices: torch.Tensor) -> torch.Tensor:
    """Select indices along a dimension; as a view where they are contiguous."""
    if len(indices) == tensor.shape[dimension]:
        return tensor
    first = int(indices[0]) if len(indices) else 0
    if len(indices) and int(indices[-1]) - first + 1 == len(indices):
        return tensor.narrow(dimension, first, len(indices))
    return tensor.index_select(dimension, indices.to(tensor.device))
