"""State of modules that no checkpoint holds: unsaved buffers, and plain attributes beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.leak import Leak, Restore, Severity, listed
from pytest_nnsight.summary.fingerprint import digest

_LARGEST_COPY = 1 << 20  # values of a buffer whose content is copied
_SIMPLE = (bool, int, float, str, type(None))


@dataclass(frozen=True, slots=True)
class _Buffer:
    """One unsaved buffer as it was; ``values`` is ``None`` for one that is too large to copy."""

    name: str
    module: torch.nn.Module
    key: str
    tensor: torch.Tensor
    version: int
    digest: str
    values: torch.Tensor | None

    def has_changed(self) -> bool:
        now = self.module._buffers.get(self.key)
        if now is not self.tensor or now.is_meta:
            return True
        return now._version != self.version if self.values is None else digest(now) != self.digest

    def restore(self) -> bool:
        """Put the buffer back; return whether its values are those it had."""
        self.module._buffers[self.key] = self.tensor
        if self.values is not None:
            with torch.no_grad():
                self.tensor.copy_(self.values)
        return self.values is not None or self.tensor._version == self.version


def snapshot_unsaved(model: Any) -> Restore:
    """Remember the unsaved buffers and the plain attributes of a model's modules.

    They are a module's working memory, such as the cache of a rotary embedding and the length that
    it was made for. A library may change them in any forward.
    """
    modules = nnsight_api.named_modules(model)
    buffers = [*_buffers(modules)]
    attributes = {path: _attributes(module) for path, module in modules.items()}

    def restore() -> Iterator[Leak]:
        changed = [buffer for buffer in buffers if buffer.has_changed()]
        lost = [buffer.name for buffer in changed if not buffer.restore()]
        if lost:
            yield Leak(f"unsaved buffers changed: {listed(lost)}", Severity.LOST)
        names = [buffer.name for buffer in changed if buffer.name not in lost]
        for path, before in attributes.items():
            now = vars(modules[path])
            different = [n for n, value in before.items() if n not in now or _differ(now[n], value)]
            for name in different:
                setattr(modules[path], name, before[name])
            names += [_join(path, name) for name in different]
        if names:
            yield Leak(f"unsaved state changed: {listed(names)}, restored", Severity.NOTE)

    return restore


def _buffers(modules: dict[str, torch.nn.Module]) -> Iterator[_Buffer]:
    for path, module in modules.items():
        for key in module._non_persistent_buffers_set:
            tensor = module._buffers.get(key)
            if tensor is None or tensor.is_meta or tensor.is_inference():
                continue
            is_small = tensor.numel() <= _LARGEST_COPY
            yield _Buffer(
                _join(path, key),
                module,
                key,
                tensor,
                tensor._version,
                digest(tensor) if is_small else "",
                tensor.detach().clone() if is_small else None,
            )


def _attributes(module: torch.nn.Module) -> dict[str, object]:
    return {
        name: value
        for name, value in vars(module).items()
        if type(value) in _SIMPLE and not name.startswith("_") and name != "training"
    }


def _differ(now: object, before: object) -> bool:
    return now is not before and now != before


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
