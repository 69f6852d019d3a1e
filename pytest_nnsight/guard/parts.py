"""What hangs on the torch modules of a model: children, hooks, forwards, modes, gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules import module as torch_modules

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.leak import Leak, Restore, Severity, listed

# Where torch keeps hooks, and what it keeps about them; private, the same from torch 2.0 to 2.13.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_ABOUT_HOOKS = (
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


@dataclass(frozen=True, slots=True)
class _Part:
    """One module as it was."""

    path: str
    module: torch.nn.Module
    children: dict[str, torch.nn.Module | None]
    hooks: dict[str, dict[Any, Any]]
    training: bool
    forward: Any


def _part(path: str, module: torch.nn.Module) -> _Part:
    hooks = _hooks(module, _HOOKS + _ABOUT_HOOKS)
    forward = module.__dict__.get("forward")
    return _Part(path, module, dict(module._modules), hooks, module.training, forward)


def snapshot_parts(model: Any) -> Restore:
    """Keep the modules of a model: hooks, forwards and modes can be restored, children not.

    nnsight's tree of envoys follows children that are replaced, and is not ours to mend.
    """
    parts = [_part(*item) for item in nnsight_api.named_modules(model).items()]
    everywhere = _hooks(torch_modules, _GLOBAL_HOOKS)

    def restore() -> Iterator[Leak]:
        nnsight_api.remove_cache_hooks(model)
        replaced = [part.path for part in parts if part.module._modules != part.children]
        if replaced:
            yield Leak(f"modules replaced or added in {_named(replaced)}", Severity.LOST)
        hooked = [part.path for part in parts if _restore_hooks(part.module, part.hooks)]
        if hooked:
            yield Leak(f"torch hooks on {_named(hooked)}, restored")
        if _restore_hooks(torch_modules, everywhere):
            yield Leak("torch hooks on all modules, restored")
        yield from _restore_modes(parts)

    return restore


def _restore_modes(parts: list[_Part]) -> Iterator[Leak]:
    patched: list[str] = []
    for part in parts:
        now = part.module.__dict__.get("forward")
        if now is part.forward or nnsight_api.is_nnsight_forward(now):
            continue
        patched.append(part.path)
        part.module.__dict__.pop("forward", None)
        if part.forward is not None:
            part.module.forward = part.forward
    if patched:
        yield Leak(f"another forward on {_named(patched)}, restored")
    switched = [part for part in parts if part.module.training != part.training]
    for part in switched:
        part.module.training = part.training
    if switched:
        mode = "training" if not switched[0].training else "eval"
        yield Leak(f"{mode} mode on {len(switched)} of {len(parts)} modules, restored")


def snapshot_gradients(model: Any) -> Restore:
    """Keep which parameters ask for a gradient, which hold one, and the hooks of their tensors."""
    parameters = dict(nnsight_api.torch_module(model).named_parameters())
    grads = {name: parameter.grad for name, parameter in parameters.items()}
    asking = {name: parameter.requires_grad for name, parameter in parameters.items()}
    hooks = {name: _tensor_hooks(parameter) for name, parameter in parameters.items()}

    def restore() -> Iterator[Leak]:
        left = [name for name, parameter in parameters.items() if parameter.grad is not grads[name]]
        for name in left:
            parameters[name].grad = grads[name]
        if left:
            yield Leak(f"gradients on {len(left)} of {len(parameters)} parameters, dropped")
        hooked = [name for name in parameters if _restore_tensor(parameters[name], hooks[name])]
        if hooked:
            yield Leak(f"hooks on parameters {listed(hooked)}, restored")
        turned = [name for name in parameters if parameters[name].requires_grad != asking[name]]
        for name in turned:
            parameters[name].requires_grad_(asking[name])
        if turned:
            yield Leak(f"requires_grad of {len(turned)} of {len(parameters)} parameters, restored")

    return restore


def _hooks(owner: Any, names: tuple[str, ...]) -> dict[str, dict[Any, Any]]:
    return {name: dict(getattr(owner, name)) for name in names if hasattr(owner, name)}


def _restore_hooks(owner: Any, before: dict[str, dict[Any, Any]]) -> bool:
    """Restore hooks; tell whether any had changed that are not nnsight's own.

    What transformers 5 hangs on a model when it is first asked for hidden states stays: it does so
    once, and would find none later.
    """
    changed = False
    for name, hooks in before.items():
        now = getattr(owner, name)
        new = {key: now[key] for key in now.keys() - hooks.keys()}
        stays = {key: hook for key, hook in new.items() if _is_of_transformers(hook)}
        hooks = hooks | stays
        if now == hooks:
            continue
        if name not in _ABOUT_HOOKS:
            added = [hook for key, hook in new.items() if key not in stays]
            removed = hooks.keys() - now.keys()
            changed |= bool(removed) or not all(map(nnsight_api.is_nnsight_hook, added))
        now.clear()
        now.update(hooks)
    return changed


def _is_of_transformers(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("transformers.")


def _tensor_hooks(tensor: torch.Tensor) -> tuple[dict[Any, Any], dict[Any, Any]]:
    after = getattr(tensor, "_post_accumulate_grad_hooks", None)
    return dict(tensor._backward_hooks or {}), dict(after or {})


def _restore_tensor(tensor: torch.Tensor, before: tuple[dict[Any, Any], dict[Any, Any]]) -> bool:
    now = _tensor_hooks(tensor)
    if now == before:
        return False
    places = (tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None))
    for place, hooks in zip(places, before, strict=True):
        if place is not None:
            place.clear()
            place.update(hooks)
    return True


def _named(paths: list[str]) -> str:
    return listed([path or "the model" for path in paths])
