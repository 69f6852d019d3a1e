"""Find and remove what nnsight and its users attach to a model: edits, hooks, forwards."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from pytest_nnsight.nnsight_api.module_tree import torch_module
from pytest_nnsight.nnsight_api.version import import_nnsight, version


def remove_cache_hooks(model: Any) -> None:
    """Remove the hooks of finished caches, which would go on storing values in every later run.

    Only nnsight 0.7 leaves them: it removes them after a trace that failed, not after one that
    succeeded. They are the hooks with the index infinity, which run last. Can go with nnsight 0.7.
    """
    if version() != (0, 7):
        return
    for module in torch_module(model).modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if getattr(hook, "mediator_idx", None) == float("inf"):
                    del hooks[key]


def _edits_attribute(model: Any) -> str:
    return "_edits" if hasattr(model, "_edits") else "_default_mediators"


def edits(model: Any) -> list[Any]:
    """Return the persistent edits of a model (``model.edit(inplace=True)``)."""
    return list(getattr(model, _edits_attribute(model), ()))


def set_edits(model: Any, new_edits: list[Any]) -> None:
    """Replace all persistent edits of a model."""
    model.clear_edits()
    setattr(model, _edits_attribute(model), list(new_edits))


def is_nnsight_hook(hook: Any) -> bool:
    """Tell whether nnsight registered a torch hook."""
    function = getattr(hook, "func", hook)
    return str(getattr(function, "__module__", "")).startswith("nnsight.")


def is_nnsight_forward(forward: Any) -> bool:
    """Tell whether nnsight set the ``forward`` of a module; nnsight does not work without it.

    0.8 sets an object of a class of its own. Before, it sets a function with the name and the
    module of the wrapped one, but with code from nnsight's files, or on 0.5 compiled for
    ``.source``.
    """
    if version() >= (0, 8):
        return type(forward).__module__.startswith("nnsight.")
    return is_nnsight_code(forward)


def is_in_trace() -> bool:
    """Tell whether the body of an nnsight trace, or of its ``with loss.backward()``, is running.

    nnsight's wrapper of ``Tensor.backward`` does not count: plain calls pass through it too.
    Before 0.7 a body runs in a thread, and its code is all that there is of nnsight on the stack.
    """
    frame: FrameType | None = sys._getframe(1)
    wrapper = getattr(torch.Tensor.backward, "__code__", None)
    while frame is not None:
        code = frame.f_code
        is_body = code.co_filename.startswith("<nnsight ")
        if is_body or (code is not wrapper and _is_nnsight(code)):
            return True
        frame = frame.f_back
    return False


def is_nnsight_code(function: Any) -> bool:
    """Tell whether the code of a Python function or method comes from nnsight's own files."""
    return _is_nnsight(getattr(getattr(function, "__func__", function), "__code__", None))


def _is_nnsight(code: Any) -> bool:
    file = getattr(code, "co_filename", "")
    if not file or file == "<nnsight>":
        return bool(file)
    return Path(file).is_relative_to(Path(import_nnsight().__file__).parent)
