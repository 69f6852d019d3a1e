"""The form of a module's value, by which the same value of another step is told quickly."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from pytest_nnsight.capture.values import is_opaque


class Form(NamedTuple):
    """What a value is but for the numbers in its tensors: those of one form have one structure.

    ``keys`` are those of a dict, ``kinds`` the types of the items of a container. Where the type
    does not say all, ``parts`` have the place of an item with its form, or what it is: a number or
    a text.
    """

    kind: type
    keys: tuple[Any, ...] = ()
    kinds: tuple[type, ...] = ()
    parts: tuple[tuple[int, Form | None, Any], ...] = ()

    @classmethod
    def of(cls, value: Any) -> Form | None:
        """Return the form of a tensor or a container; ``None`` where it has parts of other kinds.

        Those are rare: model outputs, dataclasses.
        """
        kind = type(value)
        if kind is torch.Tensor:
            return TENSOR
        if kind is not dict and kind is not tuple and kind is not list:
            return None
        if ARGUMENT.collect(value, []):
            return ARGUMENT
        items = _items(value)
        parts: list[tuple[int, Form | None, Any]] = []
        for place, item in enumerate(items):
            if type(item) is bool or type(item) is int or type(item) is str:
                parts.append((place, None, item))
            elif item is not None and not is_opaque(item):
                form = cls.of(item)
                if form is None:
                    return None
                parts.append((place, form, None))
        keys = tuple(value) if kind is dict else ()
        return cls(kind, keys, tuple(map(type, items)), tuple(parts))

    def collect(self, value: Any, into: list[Any]) -> bool:
        """Tell whether a value is of this form; if so, add its tensors in their order."""
        kind, keys, kinds, parts = self
        is_of_kind: bool = type(value) is kind
        if not is_of_kind:
            return False
        if self is TENSOR:
            into.append(value)
            return True
        items = _items(value)
        if tuple(map(type, items)) != kinds or (keys and tuple(value) != keys):
            return False
        for place, form, content in parts:
            item = items[place]
            if form is TENSOR:
                into.append(item)
            elif form is None:
                if item != content:
                    return False
            elif not form.collect(item, into):
                return False
        return True


TENSOR = Form(torch.Tensor)
"""The form of what most modules give."""

ARGUMENT = Form(
    tuple,
    kinds=(tuple, dict),
    parts=(
        (0, Form(tuple, kinds=(torch.Tensor,), parts=((0, TENSOR, None),)), None),
        (1, Form(dict), None),
    ),
)
"""The form of what most modules are called with: a tensor, by position."""


def is_fixed(value: Any) -> bool:
    """Tell whether a value keeps its parts: no list or dict that may be filled later."""
    if type(value) is tuple:
        return all(map(is_fixed, value))
    return isinstance(value, torch.Tensor | int | str) or value is None or is_opaque(value)


def _items(container: Any) -> tuple[Any, ...]:
    items: Any = container.values() if isinstance(container, dict) else container
    return tuple(items)
