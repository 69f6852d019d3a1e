"""What a test may leave changed on a model: hooks, modes, gradients, buffers, configs, edits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch.nn.modules import module as torch_modules

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.leak import Leak, Severity, listed
from pytest_nnsight.guard.weights import different, joined, tensor_entries
from pytest_nnsight.summary.fingerprint import digest

# Where torch keeps hooks, and what it keeps about them; private, the same from torch 2.0 to 2.13.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOK_OPTIONS = (*(f"{name}_with_kwargs" for name in _HOOKS[:2]), "_forward_hooks_always_called")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)
_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_MOST_VALUES = 1 << 20  # of an unsaved buffer that is copied
_PLAIN_TYPES = (bool, int, float, str, type(None))
_TOKENIZER_SETTINGS = ("padding_side", "truncation_side", "pad_token", "eos_token", "chat_template")


def snapshot_modules(model: Any) -> Iterator[Leak | None]:
    """Remember the children, hooks, forwards and modes of all modules.

    Replaced children are not restored, since nnsight's own tree has followed the change.
    """
    modules = nnsight_api.named_modules(model)
    children = {path: dict(module._modules) for path, module in modules.items()}
    hooks = {path: _hooks(module, _HOOKS + _HOOK_OPTIONS) for path, module in modules.items()}
    global_hooks = _hooks(torch_modules, _GLOBAL_HOOKS)
    forwards = {path: vars(module).get("forward") for path, module in modules.items()}
    modes = {path: module.training for path, module in modules.items()}
    yield None
    nnsight_api.remove_cache_hooks(model)
    if replaced := [path for path, module in modules.items() if module._modules != children[path]]:
        yield Leak(f"modules replaced or added in {listed(replaced)}", Severity.LOST)
    if hooked := _restore_each(_restore_hooks, modules, hooks):
        yield Leak(f"torch hooks on {listed(hooked)}, restored")
    if _restore_hooks(torch_modules, global_hooks):
        yield Leak("torch hooks on all modules, restored")
    if patched := _restore_each(_restore_forward, modules, forwards):
        yield Leak(f"another forward on {listed(patched)}, restored")
    if switched := _restore_each(partial(_restore_attribute, "training"), modules, modes):
        mode = "eval" if modes[switched[0]] else "training"
        yield Leak(f"{mode} mode on {len(switched)} of {len(modules)} modules, restored")


def snapshot_gradients(model: Any) -> Iterator[Leak | None]:
    """Remember the gradient, the hooks and ``requires_grad`` of each parameter.

    Gradients that only nnsight's traces computed are not a leak.
    """
    parameters = dict(nnsight_api.torch_module(model).named_parameters())
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    hooks = {name: _hooks(parameter, _TENSOR_HOOKS) for name, parameter in parameters.items()}
    requires = {name: parameter.requires_grad for name, parameter in parameters.items()}
    total = f"of {len(parameters)} parameters"
    backward, is_traced = torch.autograd.backward, set()

    def note_caller(*args: Any, **keywords: Any) -> None:
        is_traced.add(nnsight_api.is_in_trace())
        backward(*args, **keywords)

    torch.autograd.backward = note_caller  # ``Tensor.backward`` calls it
    yield None
    torch.autograd.backward = backward
    left = _restore_each(partial(_restore_attribute, "grad"), parameters, gradients)
    if left and is_traced != {True}:
        yield Leak(f"gradients on {len(left)} {total}, dropped", Severity.RESTORED)
    if hooked := _restore_each(_restore_hooks, parameters, hooks):
        yield Leak(f"hooks on parameters {listed(hooked)}, restored")
    if changed := _restore_each(partial(_restore_attribute, "requires_grad"), parameters, requires):
        yield Leak(f"requires_grad of {len(changed)} {total}, restored", Severity.RESTORED)


def snapshot_unsaved(model: Any) -> Iterator[Leak | None]:
    """Remember the buffers of modules that no checkpoint holds, and their plain attributes.

    A library may change them in any forward pass, like the cache of a rotary embedding.
    """
    modules = nnsight_api.named_modules(model)
    buffers = [
        (entry, data._version, data.clone() if data.numel() <= _MOST_VALUES else None)
        for entry in tensor_entries(model, is_saved=False)
        if not (data := entry.data).is_meta and not data.is_inference()
    ]
    attributes = {
        (path, name): value
        for path, module in modules.items()
        for name, value in vars(module).items()
        if type(value) in _PLAIN_TYPES and not name.startswith("_") and name != "training"
    }
    yield None
    lost, names = [], []
    for entry, version, values in buffers:
        is_changed, tensor = entry.restore(), entry.tensor.detach()
        if values is None and tensor._version != version:
            lost.append(entry.name)
            continue
        if values is not None and digest(tensor) != digest(values):
            tensor.copy_(values)
            is_changed = True
        if is_changed:
            names.append(entry.name)
    if lost:
        yield Leak(f"unsaved buffers changed: {listed(lost)}", Severity.LOST)
    for (path, name), value in attributes.items():
        now = vars(modules[path]).get(name, ...)
        if type(now) is not type(value) or now != value:
            setattr(modules[path], name, value)
            names.append(joined(path, name))
    if names:
        yield Leak(f"unsaved state changed: {listed(names)}, restored", Severity.NOTE)


def snapshot_edits(model: Any) -> Iterator[Leak | None]:
    """Remember the persistent edits (``model.edit(inplace=True)``) of a model."""
    before = nnsight_api.edits(model)
    yield None
    now = nnsight_api.edits(model)
    if [*map(id, now)] != [*map(id, before)]:
        nnsight_api.set_edits(model, before)
        added = len(now) - len(before)
        what = f"{added} persistent edit(s), cleared"
        yield Leak(what if added > 0 else "persistent edits gone or replaced, restored")


def snapshot_configs(model: Any) -> Iterator[Leak | None]:
    """Remember the config and the generation config of a model."""
    module = nnsight_api.torch_module(model)
    named = {name: getattr(module, name, None) for name in ("config", "generation_config")}
    configs = {name: config for name, config in named.items() if hasattr(config, "to_dict")}
    before = {name: (_plain(it), copy.deepcopy(vars(it))) for name, it in configs.items()}
    yield None
    for name, config in configs.items():
        (plain, values), now = before[name], _plain(config)
        if now == plain and getattr(module, name, None) is config:
            continue
        vars(config).clear()
        vars(config).update(values)
        setattr(module, name, config)
        changed = listed(different(plain, now)) or "replaced"
        yield Leak(f"{name.replace('_', ' ')} {changed}, restored")


def snapshot_tokenizer(model: Any) -> Iterator[Leak | None]:
    """Remember the settings of the tokenizer that decide the token ids of a text."""
    tokenizer = getattr(model, "tokenizer", None)
    settings = {n: getattr(tokenizer, n) for n in _TOKENIZER_SETTINGS if hasattr(tokenizer, n)}
    yield None
    for name, value in settings.items():
        if (now := getattr(tokenizer, name)) != value:
            setattr(tokenizer, name, value)
            values = ", restored" if name == "chat_template" else f" {now!r}, back to {value!r}"
            yield Leak(f"tokenizer {name.replace('_', ' ')}{values}")


def _plain(config: Any) -> dict[str, Any]:
    attention = getattr(config, "_attn_implementation", None)  # not part of the dict
    return {**config.to_dict(), "attention implementation": attention}


def _restore_each(
    restore: Callable[[Any, Any], bool], owners: Mapping[str, Any], before: Mapping[str, Any]
) -> list[str]:
    return [name for name, owner in owners.items() if restore(owner, before[name])]


def _hooks(owner: Any, names: tuple[str, ...]) -> dict[str, dict[Any, Any]]:
    return {name: dict(getattr(owner, name, None) or {}) for name in names}


def _restore_hooks(owner: Any, before: dict[str, dict[Any, Any]]) -> bool:
    """Restore hooks; tell whether any had changed that are not nnsight's.

    The hooks that transformers 5 adds when a model first returns hidden states stay.
    """
    has_changed = False
    for name, hooks in before.items():
        now: Any = getattr(owner, name, None)
        if now is None or not (now or hooks):
            continue
        new = {key: hook for key, hook in now.items() if key not in hooks}
        modules = {key: str(getattr(hook, "__module__", "")) for key, hook in new.items()}
        expected = hooks | {k: new[k] for k in new if modules[k].startswith("transformers.")}
        if name not in _HOOK_OPTIONS:
            added = [hook for key, hook in new.items() if key not in expected]
            is_removed = bool(expected.keys() - now.keys())
            has_changed |= is_removed or not all(map(nnsight_api.is_nnsight_hook, added))
        if now != expected:
            now.clear()
            now.update(expected)
    return has_changed


def _restore_forward(module: torch.nn.Module, before: Any) -> bool:
    now = vars(module).get("forward")
    if now is before or nnsight_api.is_nnsight_forward(now):
        return False
    vars(module).pop("forward", None)
    if before is not None:
        module.forward = before
    return True


def _restore_attribute(name: str, owner: Any, before: Any) -> bool:
    if getattr(owner, name) is before:
        return False
    setattr(owner, name, before)
    return True
