"""The places of tensors among the summaries of a run; each tensor is measured once."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from pytest_nnsight.summaries import Summaries, are_new, version_of


@dataclass(slots=True)
class Places:
    """Gives tensors to be measured, and knows those that were.

    A block's output is often the very tensor of its last module: unchanged, it is not measured
    again.
    """

    summaries: Summaries
    _seen: dict[int, tuple[weakref.ref[torch.Tensor], int, int]] = field(default_factory=dict)
    _earlier: dict[int, torch.Tensor] = field(default_factory=dict)
    _of_earlier: dict[int, int] = field(default_factory=dict)

    def of(self, tensor: torch.Tensor) -> int:
        """Return the place of a tensor as it is now."""
        version, seen = version_of(tensor), self._seen.get(id(tensor))
        if seen is not None and seen[0]() is tensor and seen[1] == version >= 0:
            return seen[2]
        place = self.summaries.add(tensor, version)
        self._seen[id(tensor)] = (weakref.ref(tensor), version, place)
        return place

    def of_step(self, tensors: Sequence[torch.Tensor]) -> list[int]:
        """Return the places of tensors that waited for the end of a step.

        They should not have been changed since they were made. They are known by identity, also
        those of the step before, which are held for that.
        """
        keys = [*map(id, tensors)]
        own = dict(zip(keys, tensors, strict=True))
        places = {key: self._of_earlier[key] for key in own.keys() & self._earlier.keys()}
        new = {key: tensor for key, tensor in own.items() if key not in places}
        places |= zip(new, self.summaries.add_new(new.values()), strict=True)
        self._earlier, self._of_earlier = own, places
        return [*map(places.__getitem__, keys)]

    def must_be_new(self, tensors: Iterable[torch.Tensor]) -> None:
        """Note it where one was changed since it was made, which may be since it arrived."""
        self.summaries.has_lost |= not are_new(tensors)

    @property
    def bytes_held(self) -> int:
        """How large the tensors of the last step are, that was taken as a whole."""
        return sum([tensor.nbytes for tensor in self._earlier.values()])
