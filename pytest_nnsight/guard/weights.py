"""The weights of a model between tests: restore what was replaced, find what was written.

Reading all weights takes as long as a forward pass. Between tests only a mark of each tensor is
read: its identity, version, address and some values. A write that leaves the mark as it was, such
as one value through ``.data``, is found when all weights are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.leak import Leak, listed
from pytest_nnsight.summary.fingerprint import digests, saved_tensors

_SAMPLED = 64  # values of each tensor
_PLAIN = (torch.Tensor, torch.nn.Parameter)  # quantised and other tensors may lack operations


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor, and the entry of a module's ``_parameters`` or ``_buffers`` that holds it."""

    name: str
    owner: MutableMapping[str, torch.Tensor | None]
    key: str
    tensor: torch.Tensor
    data: torch.Tensor

    def restore(self) -> bool:
        """Restore the tensor and its memory, not its values; return whether there were others."""
        now = self.owner.get(self.key)
        if self.data.is_meta or (now is not None and now.is_meta):
            return False
        self.owner[self.key] = self.tensor
        is_moved = _is_plain(self.tensor) and (
            self.tensor.data_ptr() != self.data.data_ptr() or self.tensor.shape != self.data.shape
        )
        if is_moved:
            self.tensor.data = self.data
        return is_moved or now is not self.tensor


def tensor_entries(model: Any, is_saved: bool) -> Iterator[TensorEntry]:
    """Yield the entries of parameters (all of tied ones) and saved buffers, or unsaved buffers."""
    for path, module in nnsight_api.named_modules(model).items():
        unsaved = module._non_persistent_buffers_set
        owners: tuple[Any, ...] = (module._parameters, module._buffers)
        for owner in owners:
            for key, tensor in owner.items():
                if tensor is not None and (key in unsaved) is not is_saved:
                    yield TensorEntry(joined(path, key), owner, key, tensor, tensor.detach())


def joined(path: str, name: str) -> str:
    """Return the dotted path of a member of a module; the path of the model itself is empty."""
    return f"{path}.{name}" if path else name


def snapshot_tensors(model: Any) -> Iterator[Leak | None]:
    """Remember which tensors the modules hold, and where the values of each are in memory."""
    entries = [*tensor_entries(model, is_saved=True)]
    yield None
    if replaced := [entry.name for entry in entries if entry.restore()]:
        yield Leak(f"parameters replaced, cast or moved: {listed(replaced)}, restored")


class Weights:
    """The parameters and saved buffers of one model; ``digests`` has each as last read."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._marks = self._read_marks()
        self.digests = digests(saved_tensors(nnsight_api.torch_module(model)))

    def describe(self, names: list[str]) -> str:
        """Return how many of all parameters these are, with the first names."""
        total = len(self.digests.keys() | names)
        return f"{len(names)} of {total} parameters differ ({listed(names)})"

    def update(self) -> list[str]:
        """Read the tensors whose mark changed; return the names of those with other values."""
        before, self._marks = self._marks, self._read_marks()
        return self._read(different(before, self._marks))

    def read_all(self) -> list[str]:
        """Read all weights; return the names of those that changed although their mark did not."""
        self.update()
        return self._read([*self.digests])

    def _read(self, names: list[str]) -> list[str]:
        if not names:
            return []
        tensors, before = saved_tensors(nnsight_api.torch_module(self._model)), self.digests
        found = before | digests(tensors, tensors.keys() - (before.keys() - names))
        self.digests = {name: found[name] for name in tensors}
        return [name for name in names if self.digests.get(name) != before.get(name)]

    def _read_marks(self) -> dict[str, tuple[object, ...]]:
        entries = [*tensor_entries(self._model, is_saved=True)]
        first = {id(entry.tensor): entry.name for entry in reversed(entries)}  # of tied ones
        tensors = {e.name: e.tensor for e in entries if first[id(e.tensor)] == e.name}
        samples = _samples(tensors)
        return {name: (*_mark(tensor), samples.get(name)) for name, tensor in tensors.items()}


def different(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return the names whose values are not equal, sorted."""
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def _mark(tensor: torch.Tensor) -> tuple[object, ...]:
    if tensor.is_meta:  # accelerate makes a new one after each forward
        return ()
    version = 0 if tensor.is_inference() else tensor._version
    return (id(tensor), version, tensor.data_ptr() if _is_plain(tensor) else 0)


def _samples(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """Return some values of each tensor as bytes, by one transfer from each device."""
    groups: dict[torch.device, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if _is_plain(tensor) and not tensor.is_meta:
            flat = tensor.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED]
            groups.setdefault(flat.device, {})[name] = some.contiguous().view(torch.uint8)
    found: dict[str, bytes] = {}
    for group in groups.values():
        sizes = [some.nbytes for some in group.values()]
        parts = torch.split(torch.cat([*group.values()]).cpu(), sizes)
        found |= {name: part.numpy().tobytes() for name, part in zip(group, parts, strict=True)}
    return found


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in _PLAIN and tensor.layout == torch.strided
