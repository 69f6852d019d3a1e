"""The weights of a model between tests: restore what was replaced, find what was written.

Reading all weights takes as long as a short forward pass. Between tests only a mark of each tensor
is read: its identity, address, version, and some of its values. A change that leaves the mark as it
was, such as one value written through ``.data``, shows when all weights are read.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.leak import Leak, Restore, listed
from pytest_nnsight.summary.fingerprint import digests, saved_tensors

_SAMPLED = 64  # values of each tensor
_PLAIN = (torch.Tensor, torch.nn.Parameter)  # quantised and other tensors may lack operations


@dataclass(frozen=True, slots=True)
class _Slot:
    """The place of a module that holds a tensor."""

    name: str
    owner: MutableMapping[str, torch.Tensor | None]
    key: str
    tensor: torch.Tensor


class Weights:
    """The parameters and saved buffers of one model, with the digest of each as last read."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._marks = self._read_marks()
        self.digests = digests(saved_tensors(self._module))

    def snapshot(self) -> Restore:
        """Remember which tensors the modules hold, and where the values of each lie.

        A tensor that was replaced, cast or moved is restored; values that were written are not.
        """
        slots = [*_slots(self._module)]
        data = [slot.tensor.detach() for slot in slots]

        def restore() -> Iterator[Leak]:
            pairs = zip(slots, data, strict=True)
            replaced = [slot.name for slot, values in pairs if _restore_slot(slot, values)]
            if replaced:
                yield Leak(f"parameters replaced, cast or moved: {listed(replaced)}, restored")

        return restore

    def count(self, names: list[str]) -> str:
        """Say how many of the parameters these are, and name the first."""
        total = len(self.digests.keys() | names)
        return f"{len(names)} of {total} parameters differ ({listed(names)})"

    def update(self) -> list[str]:
        """Read the tensors whose mark changed; return those whose content changed."""
        before, self._marks = self._marks, self._read_marks()
        names = {*before, *self._marks}
        return self._read(sorted(n for n in names if before.get(n) != self._marks.get(n)))

    def read_all(self) -> list[str]:
        """Read all weights; return those whose content changed although their mark did not."""
        self.update()
        return self._read([*self.digests])

    def differing(self, before: dict[str, str]) -> list[str]:
        """Return the names whose digest, as last read, is another than in ``before``."""
        names = {*before, *self.digests}
        return sorted(n for n in names if before.get(n) != self.digests.get(n))

    def _read(self, names: list[str]) -> list[str]:
        if not names:
            return []
        tensors, before = saved_tensors(self._module), dict(self.digests)
        kept = {name: digest for name, digest in before.items() if name not in names}
        found = kept | digests(tensors, tensors.keys() - kept.keys())
        self.digests = {name: found[name] for name in tensors}
        return [name for name in names if self.digests.get(name) != before.get(name)]

    def _read_marks(self) -> dict[str, tuple[object, ...]]:
        first: dict[int, str] = {}  # a tied tensor counts under its first name
        tensors = {
            slot.name: slot.tensor
            for slot in _slots(self._module)
            if first.setdefault(id(slot.tensor), slot.name) == slot.name
        }
        samples = _samples(tensors)
        return {name: (*_mark(tensor), samples.get(name)) for name, tensor in tensors.items()}

    @property
    def _module(self) -> torch.nn.Module:
        return nnsight_api.torch_module(self._model)


def _mark(tensor: torch.Tensor) -> tuple[object, ...]:
    if tensor.device.type == "meta":  # accelerate makes a new one after each forward
        return ()
    version = 0 if tensor.is_inference() else tensor._version
    return (id(tensor), version, tensor.data_ptr() if _is_plain(tensor) else 0)


def _samples(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """Return some values of each tensor, as bytes; read in one go for each dtype and device."""
    groups: dict[tuple[object, ...], dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if _is_plain(tensor) and tensor.device.type != "meta":
            flat = tensor.detach().reshape(-1)
            if flat.element_size() == 1:
                flat = flat.view(torch.uint8)
            some = flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED]
            groups.setdefault((flat.dtype, flat.device), {})[name] = some
    found = {}
    for group in groups.values():
        data, at = torch.cat([*group.values()]).view(torch.uint8).cpu().numpy().tobytes(), 0
        for name, some in group.items():
            size = some.numel() * some.element_size()
            found[name], at = data[at : at + size], at + size
    return found


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in _PLAIN and tensor.layout == torch.strided


def _slots(module: torch.nn.Module) -> Iterator[_Slot]:
    """Yield every place that holds a parameter or saved buffer, those of tied ones all."""
    for path, part in module.named_modules():
        saved = part._buffers.keys() - part._non_persistent_buffers_set
        buffers = [(part._buffers, key) for key in part._buffers if key in saved]
        for owner, key in [*((part._parameters, key) for key in part._parameters), *buffers]:
            tensor = owner[key]
            if tensor is not None:
                name = f"{path}.{key}" if path else key
                yield _Slot(name, owner, key, tensor)


def _restore_slot(slot: _Slot, data: torch.Tensor) -> bool:
    """Put a tensor and its values back where they were; tell whether they were elsewhere."""
    now = slot.owner.get(slot.key)
    if data.device.type == "meta" or (now is not None and now.device.type == "meta"):
        return False
    is_other = now is not slot.tensor
    slot.owner[slot.key] = slot.tensor
    if not _is_plain(slot.tensor):
        return is_other
    if slot.tensor.data_ptr() != data.data_ptr() or slot.tensor.shape != data.shape:
        slot.tensor.data = data
        return True
    return is_other
