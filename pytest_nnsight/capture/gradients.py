"""Compute gradients of a scalar with respect to every module's output.

The outputs are those that the recorder received from nnsight. The scalar is differentiated after
the model has run, with `torch.autograd.grad`, which does not touch gradients of parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pytest_nnsight.capture.recorder import Output, Recorder
from pytest_nnsight.errors import UsageError

PREFIX = "gradient"


def record_gradients(scalars: Mapping[str, Any], recorder: Recorder) -> None:
    """Differentiate each scalar, and record the gradients from the last output to the first."""
    outputs = recorder.outputs or []
    for number, (name, scalar) in enumerate(scalars.items(), 1):
        prefix = f"{PREFIX}.{name}" if name else PREFIX
        is_last = number == len(scalars)
        found = _differentiate(name or "gradient_of", scalar, outputs, retain_graph=not is_last)
        for output, gradients in zip(reversed(outputs), reversed(found), strict=True):
            recorder.receive_gradient(prefix, output, gradients)


def _differentiate(
    name: str, scalar: Any, outputs: Sequence[Output], retain_graph: bool
) -> list[list[torch.Tensor | None]]:
    """Return the gradient of each tensor of each output, or ``None`` where it has none.

    Raise `UsageError` where ``scalar`` is not a scalar computed from the model's values.
    """
    if not isinstance(scalar, torch.Tensor) or scalar.numel() != 1 or not scalar.requires_grad:
        shape = f"shape {list(scalar.shape)}" if isinstance(scalar, torch.Tensor) else repr(scalar)
        raise UsageError(
            f"{name} must return a scalar made from the model's values, got {shape}; "
            "as in: lambda model: model.lm_head.output[0, -1].max()"
        )
    tensors = {id(t): t for output in outputs for _, t in output.tensors if t.requires_grad}
    values = list(tensors.values())
    found = torch.autograd.grad(
        scalar.reshape(()), values, retain_graph=retain_graph, allow_unused=True
    )
    by_id = dict(zip(tensors, found, strict=True))
    return [[by_id.get(id(tensor)) for _, tensor in output.tensors] for output in outputs]
