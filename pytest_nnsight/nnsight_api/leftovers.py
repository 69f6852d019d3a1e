"""What nnsight and its users leave on a model: edits, hooks, forwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_nnsight.nnsight_api.tree import torch_module
from pytest_nnsight.nnsight_api.version import import_nnsight, version


def remove_cache_hooks(model: Any) -> None:
    """Take off the hooks of finished caches, which would go on storing in every later run.

    Only nnsight 0.7 leaves them: it cleans up after a trace that failed, not after one that ended
    well. They are the hooks that run after all others. Goes when nnsight 0.7 does.
    """
    if version() != (0, 7):
        return
    for module in torch_module(model).modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if getattr(hook, "mediator_idx", None) == float("inf"):
                    del hooks[key]


def _edits_name(model: Any) -> str:
    return "_edits" if hasattr(model, "_edits") else "_default_mediators"


def edits(model: Any) -> list[Any]:
    """Return the persistent edits (``model.edit(inplace=True)``) that a model carries."""
    return list(getattr(model, _edits_name(model), ()))


def set_edits(model: Any, wanted: list[Any]) -> None:
    """Let a model carry these persistent edits and no others."""
    model.clear_edits()
    setattr(model, _edits_name(model), list(wanted))


def is_own_hook(hook: Any) -> bool:
    """Tell whether a torch hook is nnsight's own."""
    function = getattr(hook, "func", hook)
    return str(getattr(function, "__module__", "")).startswith("nnsight.")


def is_own_forward(forward: Any) -> bool:
    """Tell whether a forward that was set on one module is nnsight's, which it needs.

    0.8 sets an object of a class of its own. Before, it is a function that bears the name and the
    module of what it wraps, but nnsight's own code: from its files, or on 0.5 compiled for
    ``.source``.
    """
    if version() >= (0, 8):
        return type(forward).__module__.startswith("nnsight.")
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    file = getattr(code, "co_filename", "")
    return file == "<nnsight>" or Path(file).is_relative_to(Path(import_nnsight().__file__).parent)
