"""The places of tensors among the summaries of a run; each tensor is measured once."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import torch

from pytest_nnsight.summary.summarizer import Summarizer, version_of


@dataclass(slots=True)
class Places:
    """Gives tensors to be measured, and knows those that were.

    A block's output is often the very tensor of its last module: unchanged, it is not measured
    again.
    """

    summaries: Summarizer
    _seen: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = field(default_factory=dict)

    def of(self, tensor: torch.Tensor) -> int:
        """Return the place of a tensor as it is now."""
        version, seen = version_of(tensor), self._seen.get(id(tensor))
        if seen is not None and seen[0]() is tensor and seen[1] == version >= 0:
            return seen[2]
        place = self.summaries.add(tensor, version)
        self._seen[id(tensor)] = (weakref.ref(tensor), version, place)
        return place
