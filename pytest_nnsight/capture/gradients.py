"""Compute gradients of a scalar with respect to every module's output.

The outputs are those that nnsight hands over. The scalar is differentiated after the model has run,
with `torch.autograd.grad`, which leaves the gradients of its parameters alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_nnsight.capture.model_inputs import intervention_code, intervention_name
from pytest_nnsight.capture.recorder import Output, Recorder
from pytest_nnsight.errors import UsageError

Objective = Callable[..., Any]
Objectives = Objective | Mapping[str, Objective] | None
PREFIX = "gradient"


@dataclass(frozen=True, slots=True)
class Gradients:
    """The scalars to differentiate, by name; the empty text names the only one."""

    objectives: Mapping[str, Objective]
    scalars: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, argument: Objectives) -> Gradients | None:
        """Read ``gradient_of``: a function, or several by name. Raise `UsageError` for others."""
        if argument is None:
            return None
        named = dict(argument) if isinstance(argument, Mapping) else {"": argument}
        for name, objective in named.items():
            if not callable(objective) or not (name == "" or str(name).isidentifier()):
                raise UsageError(
                    "gradient_of takes a function of the model that returns a scalar, or a dict of "
                    f"such functions by name, got {name or type(objective).__name__!r}"
                )
        return cls(named)

    def settings(self) -> dict[str, str]:
        """Return what a record holds of the objectives: names, and digests of their code."""
        names = [
            f"{name}={intervention_name(f)}" if name else str(intervention_name(f))
            for name, f in self.objectives.items()
        ]
        codes = [intervention_code(f) for f in self.objectives.values()]
        return {"gradient_of": ", ".join(names), "gradient_code": ", ".join(codes)}

    def record(self, recorder: Recorder) -> None:
        """Differentiate each scalar, and record the gradients from the last output to the first."""
        outputs = recorder.outputs or []
        for number, (name, scalar) in enumerate(self.scalars.items(), 1):
            prefix = f"{PREFIX}.{name}" if name else PREFIX
            is_last = number == len(self.scalars)
            found = _differentiate(name or "gradient_of", scalar, outputs, keeps=not is_last)
            for output, gradients in zip(reversed(outputs), reversed(found), strict=True):
                recorder.receive_gradient(prefix, output, gradients)


def _differentiate(
    name: str, scalar: Any, outputs: Sequence[Output], keeps: bool
) -> list[list[torch.Tensor | None]]:
    """Return the gradient of each tensor of each output, or ``None`` where it has none.

    Raise `UsageError` where ``scalar`` is no scalar made from the model's values.
    """
    if not isinstance(scalar, torch.Tensor) or scalar.numel() != 1 or not scalar.requires_grad:
        shape = f"shape {list(scalar.shape)}" if isinstance(scalar, torch.Tensor) else repr(scalar)
        raise UsageError(
            f"{name} must return a scalar made from the model's values, got {shape}; "
            "as in: lambda model: model.lm_head.output[0, -1].max()"
        )
    tensors = {id(t): t for output in outputs for _, t in output.tensors if t.requires_grad}
    values = list(tensors.values())
    found = torch.autograd.grad(scalar.reshape(()), values, retain_graph=keeps, allow_unused=True)
    by_id = dict(zip(tensors, found, strict=True))
    return [[by_id.get(id(tensor)) for _, tensor in output.tensors] for output in outputs]
