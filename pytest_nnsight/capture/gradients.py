"""Gradients of a scalar with respect to what every module gives.

The values are those that nnsight hands over. The scalar is differentiated when the model has run,
so that nothing is added to the gradients of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_nnsight.capture.entries import intervention_code, intervention_name
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
    def of(cls, wanted: Objectives) -> Gradients | None:
        """Read ``gradient_of``: one function, or several by name."""
        if wanted is None:
            return None
        named = dict(wanted) if isinstance(wanted, Mapping) else {"": wanted}
        for name, objective in named.items():
            if not callable(objective) or not (name == "" or str(name).isidentifier()):
                raise UsageError(
                    "gradient_of takes a function of the model that returns a scalar, or a dict of "
                    f"such functions by name, got {name or type(objective).__name__!r}"
                )
        return cls(named)

    def settings(self) -> dict[str, str]:
        """Return what a record keeps of the objectives: their names, and digests of their code."""
        names = [
            f"{name}={intervention_name(f)}" if name else str(intervention_name(f))
            for name, f in self.objectives.items()
        ]
        codes = [intervention_code(f) for f in self.objectives.values()]
        return {"gradient_of": ", ".join(names), "gradient_code": ", ".join(codes)}

    def record(self, recorder: Recorder) -> None:
        """Differentiate each scalar, and give the gradients to the recorder, the last one first."""
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
    """Return the gradient of each tensor of each output; ``None`` where it has none."""
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
