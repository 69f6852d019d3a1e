"""A forward pass with shapes and no numbers, and models that have no weights."""

from __future__ import annotations

import warnings
from importlib import metadata
from typing import Any

import torch

from pytest_nnsight.errors import UsageError, one_line
from pytest_nnsight.nnsight_api.invokes import Invoke, intervene_in
from pytest_nnsight.nnsight_api.leftovers import remove_cache_hooks
from pytest_nnsight.nnsight_api.model_class import is_causal, wrap
from pytest_nnsight.nnsight_api.runs import Watch, adapted, begin, quiet_forward
from pytest_nnsight.nnsight_api.tree import torch_module
from pytest_nnsight.nnsight_api.version import import_nnsight, version

# What torch says where a model asks for a number, or for arithmetic that the meta device lacks.
_MORE_THAN_SHAPES = ("DataDependent", "meta tensor", "unsupported scalarType", "for autocast")


def run_scan(model: Any, invoke: Invoke, watch: Watch) -> None:
    """Run one forward pass on tensors that have shapes alone; like `running.run_trace`.

    Raise `UsageError` for a model whose code asks for a number.
    """
    invoke = adapted(model, invoke)
    try:
        with quiet_forward(), model.scan(*invoke.arguments, **invoke.keywords) as tracer:
            begin(model, tracer, watch)
            intervene_in(model, tracer, invoke)
    except Exception as error:
        text = f"{type(error).__name__} {error}"
        if not any(words in text for words in _MORE_THAN_SHAPES):
            raise
        raise UsageError(
            f"cannot scan {type(torch_module(model)).__name__}: transformers "
            f"{metadata.version('transformers')} needs more than shapes for it "
            f"({_last_line(text)}); 5.23 does not for most models"
        ) from error
    finally:
        remove_cache_hooks(model)


def _last_line(text: str) -> str:
    """Return what nnsight before 0.8 tells last, behind the traceback in its message."""
    telling = [
        line.strip()
        for line in text.splitlines()
        if any(words in line for words in _MORE_THAN_SHAPES)
    ]
    return one_line(Exception(telling[-1]), 120)


def wrap_skeleton(module: torch.nn.Module, tokenizer: Any) -> Any:
    """Wrap a model on the meta device; without a tokenizer it takes token ids."""
    nnsight = import_nnsight()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="nnsight")
        if version() >= (0, 8):
            if tokenizer is not None:
                task = "text-generation" if is_causal(module) else "feature-extraction"
                return nnsight.TransformersModel(
                    module, tokenizer=tokenizer, task=task, device="meta"
                )
            # `TransformersModel` asks for a tokenizer, and `NNsight` cannot scan.
            from nnsight.modeling.huggingface import HuggingFaceModel

            return HuggingFaceModel(module)
        if tokenizer is not None:
            return wrap(module, tokenizer)
        return nnsight.LanguageModel(module, tokenizer=None)


def is_skeleton(model: Any) -> bool:
    """Tell whether a model has no weights and will not get any.

    nnsight loads the weights of a model that is not dispatched when it is first used, and
    accelerate puts weights off.
    """
    module = torch_module(model)
    devices = (parameter.device.type for parameter in module.parameters())
    first = next(devices, "none")
    if first != "meta" or any(device != "meta" for device in devices):
        return False
    will_load = not getattr(model, "dispatched", True)
    return not will_load and not any(hasattr(part, "_hf_hook") for part in module.modules())
