"""The weights of a model between tests: what was replaced is put back, what was written is found.

To read all weights takes as long as a short forward pass. Between tests a mark is read of each
tensor: which it is, where it lies, its version, and some of its values. A change that leaves all of
these as they were, as of one value through ``.data``, shows once all weights are read.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.leak import Leak, PutBack, listed
from pytest_nnsight.summary.fingerprint import digests, saved_tensors

_SAMPLED = 64  # values of each tensor
_LARGEST_COPY = 65_536  # values of a buffer that is copied
_PLAIN = (torch.Tensor, torch.nn.Parameter)  # quantised and other tensors may lack operations


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a module holds a tensor."""

    name: str
    owner: MutableMapping[str, torch.Tensor | None]
    key: str
    tensor: torch.Tensor


class Weights:
    """The parameters and saved buffers of one model, with the digests of their content."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._marks = self._look()
        self.digests = digests(saved_tensors(self._module))

    def keep(self) -> PutBack:
        """Keep which tensors the modules hold, and where the values of each lie.

        A tensor that is replaced, cast or moved can be put back; one that was written cannot.
        Buffers that are not saved are a module's working memory, which is put back silently.
        """
        self.changed()  # by a fixture of wider scope, which is its own affair
        places = [*_places(self._module)]
        data = [place.tensor.detach() for place in places]
        working = [*_working_memory(self._module)]

        def put_back() -> Iterator[Leak]:
            for owner, key, buffer, values in working:
                buffer.copy_(values)
                owner[key] = buffer
            replaced = [
                place.name
                for place, values in zip(places, data, strict=True)
                if _put_back(place, values)
            ]
            if replaced:
                yield Leak(f"parameters replaced, cast or moved: {listed(replaced)}, put back")
            changed = self.changed()
            if changed:
                yield Leak(f"weights changed: {self.counted(changed)}", is_lost=True)

        return put_back

    def counted(self, names: list[str]) -> str:
        """Say how many of the parameters these are, and name the first."""
        total = len(self.digests.keys() | names)
        return f"{len(names)} of {total} parameters differ ({listed(names)})"

    def changed(self) -> list[str]:
        """Return the tensors with another mark than at the last look and with other content."""
        before, self._marks = self._marks, self._look()
        names = {*before, *self._marks}
        return self._read(sorted(n for n in names if before.get(n) != self._marks.get(n)))

    def verify(self) -> list[str]:
        """Read all weights; return those whose content changed and whose mark did not."""
        self.changed()
        return self._read([*self.digests])

    def _read(self, names: list[str]) -> list[str]:
        if not names:
            return []
        tensors, before = saved_tensors(self._module), dict(self.digests)
        kept = {name: digest for name, digest in before.items() if name not in names}
        found = kept | digests(tensors, tensors.keys() - kept.keys())
        self.digests = {name: found[name] for name in tensors}
        return [name for name in names if self.digests.get(name) != before.get(name)]

    def _look(self) -> dict[str, tuple[object, ...]]:
        first: dict[int, str] = {}  # a tied tensor counts under its first name
        tensors = {
            place.name: place.tensor
            for place in _places(self._module)
            if first.setdefault(id(place.tensor), place.name) == place.name
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


def _places(module: torch.nn.Module) -> Iterator[_Place]:
    """Yield every place that holds a parameter or saved buffer, those of tied ones all."""
    for path, part in module.named_modules():
        saved = part._buffers.keys() - part._non_persistent_buffers_set
        buffers = [(part._buffers, key) for key in part._buffers if key in saved]
        for owner, key in [*((part._parameters, key) for key in part._parameters), *buffers]:
            tensor = owner[key]
            if tensor is not None:
                name = f"{path}.{key}" if path else key
                yield _Place(name, owner, key, tensor)


def _put_back(place: _Place, data: torch.Tensor) -> bool:
    """Put a tensor and its values back where they were; tell whether they were elsewhere."""
    now = place.owner.get(place.key)
    if data.device.type == "meta" or (now is not None and now.device.type == "meta"):
        return False
    is_other = now is not place.tensor
    place.owner[place.key] = place.tensor
    if not _is_plain(place.tensor):
        return is_other
    if place.tensor.data_ptr() != data.data_ptr() or place.tensor.shape != data.shape:
        place.tensor.data = data
        return True
    return is_other


def _working_memory(
    module: torch.nn.Module,
) -> Iterator[tuple[MutableMapping[str, Any], str, torch.Tensor, torch.Tensor]]:
    """Yield where buffers lie that are not saved, and copies of those that are not large."""
    for part in module.modules():
        for key in part._non_persistent_buffers_set:
            buffer = part._buffers.get(key)
            if buffer is None or buffer.device.type == "meta" or buffer.is_inference():
                continue
            if buffer.numel() <= _LARGEST_COPY:
                yield part._buffers, key, buffer, buffer.clone()
