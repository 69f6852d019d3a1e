"""Give each tensor of a run an index among its summaries, and measure it only once."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import torch

from pytest_nnsight.summary.summarizer import Summarizer, version_of


@dataclass(slots=True)
class SummaryIndex:
    """Return the same index for the same unchanged tensor.

    A block's output is often the very tensor of its last module, and the input of the next one.
    """

    summarizer: Summarizer
    _seen: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = field(default_factory=dict)

    def of(self, tensor: torch.Tensor) -> int:
        """Return the index of a tensor as it is now; add it to the summarizer where it is new."""
        version, seen = version_of(tensor), self._seen.get(id(tensor))
        if seen is not None and seen[0]() is tensor and seen[1] == version >= 0:
            return seen[2]
        index = self.summarizer.add(tensor, version)
        self._seen[id(tensor)] = (weakref.ref(tensor), version, index)
        return index
