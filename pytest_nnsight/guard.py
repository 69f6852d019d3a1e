"""What a test left behind on the shared model, found and put back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_nnsight import nnsight_api


@dataclass(frozen=True, slots=True)
class ModelState:
    """What of a shared model a test must not leave changed."""

    edits: int
    training: tuple[str, ...]
    hooks: int
    grads: int
    padding_side: str | None


def observe(model: Any) -> ModelState:
    """Read the state of a model: a few milliseconds, no tensor is touched."""
    module = nnsight_api.torch_module(model)
    modules = dict(module.named_modules())
    return ModelState(
        edits=nnsight_api.edits(model),
        training=tuple(path for path, part in modules.items() if part.training),
        hooks=sum(
            len(part._forward_hooks) + len(part._forward_pre_hooks) for part in modules.values()
        ),
        grads=sum(parameter.grad is not None for parameter in module.parameters()),
        padding_side=getattr(getattr(model, "tokenizer", None), "padding_side", None),
    )


def restore(model: Any, before: ModelState) -> list[str]:
    """Put back what a test changed since `observe`; return what it was, in words.

    Persistent edits, training mode, gradients and the tokenizer's padding side are restored.
    Forward hooks cannot be told from those that belong to the model; they are only named.
    """
    nnsight_api.remove_cache_hooks(model)
    now, module = observe(model), nnsight_api.torch_module(model)
    left = []
    if now.edits > before.edits:
        left.append(f"{now.edits - before.edits} persistent edit(s), cleared")
        nnsight_api.clear_edits(model)
    if now.training != before.training:
        left.append("training mode, back to eval")
        for path, part in module.named_modules():
            part.training = path in before.training
    if now.grads > before.grads:
        left.append(f"gradients on {now.grads} parameters, dropped")
        module.zero_grad(set_to_none=True)
    if now.padding_side != before.padding_side:
        left.append(f"tokenizer padding side {now.padding_side}, back to {before.padding_side}")
        model.tokenizer.padding_side = before.padding_side
    if now.hooks > before.hooks:
        left.append(
            f"{now.hooks - before.hooks} torch hook(s), still there: remove them in the test"
        )
    return left
