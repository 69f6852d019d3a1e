"""Functions of a test that run inside its trace: interventions, and scalars to differentiate."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.errors import UsageError
from pytest_nnsight.summary.summarizer import summarize

Objective = Callable[..., Any]
Objectives = Objective | Mapping[str, Objective] | None


@dataclass(frozen=True, slots=True)
class GradientRequest:
    """The functions whose scalars are differentiated, by name; a single one has an empty name."""

    objectives: Mapping[str, Objective]
    scalars: dict[str, Any] = field(default_factory=dict)
    """What the functions returned in the latest run."""

    @classmethod
    def of(cls, argument: Objectives) -> GradientRequest | None:
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

    def call(self, model: Any, tracer: Any) -> None:
        """Call the functions in the body of a trace."""
        self.scalars.clear()  # those of an earlier run
        for name, objective in self.objectives.items():
            self.scalars[name] = with_all_parameters(objective)(model, tracer, None)

    def settings(self) -> dict[str, str]:
        """Return what a record holds of the functions: names, and digests of their code."""
        names = [
            f"{name}={callback_name(f)}" if name else str(callback_name(f))
            for name, f in self.objectives.items()
        ]
        codes = [code_digest(f) for f in self.objectives.values()]
        return {"gradient_of": ", ".join(names), "gradient_code": ", ".join(codes)}

    def differentiate(
        self, tensors: Iterable[torch.Tensor]
    ) -> Iterator[tuple[str, dict[int, torch.Tensor]]]:
        """Yield the first part of the paths of each scalar's gradients, and these by ``id``.

        `torch.autograd.grad` does not touch gradients of parameters. Raise `UsageError` where a
        function did not return a scalar computed from the model's values.
        """
        values = list({id(tensor): tensor for tensor in tensors if tensor.requires_grad}.values())
        for number, (name, scalar) in enumerate(self.scalars.items(), 1):
            is_tensor = isinstance(scalar, torch.Tensor)
            if not is_tensor or scalar.numel() != 1 or not scalar.requires_grad:
                got = f"shape {list(scalar.shape)}" if is_tensor else repr(scalar)
                raise UsageError(
                    f"{name or 'gradient_of'} must return a scalar made from the model's values, "
                    f"got {got}; as in: lambda model: model.lm_head.output[0, -1].max()"
                )
            is_last = number == len(self.scalars)
            found = torch.autograd.grad(
                scalar.reshape(()), values, retain_graph=not is_last, allow_unused=True
            )
            pairs = zip(values, found, strict=True)
            gradients = {id(value): each for value, each in pairs if each is not None}
            yield f"gradient.{name}" if name else "gradient", gradients


def with_all_parameters(function: Callable[..., Any]) -> nnsight_api.Intervention:
    """Return a function of model, tracer and barrier that calls one with fewer parameters."""
    count = parameter_count(function)
    return lambda model, tracer, barrier: function(*(model, tracer, barrier)[:count])


def parameter_count(function: Callable[..., Any]) -> int:
    """Return how many of model, tracer and barrier a function takes."""
    return max(1, min(3, len(inspect.signature(function).parameters)))


def callback_name(function: Callable[..., Any] | None) -> str | None:
    """Return the name of a function as a record holds it."""
    return None if function is None else getattr(function, "__name__", type(function).__name__)


def code_digest(function: Callable[..., Any] | None) -> str:
    """Return a digest of what a function does; empty where its source is not available.

    It is over the source without comments, and the plain values and tensors that it uses.
    """
    if function is None:
        return ""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        variables = inspect.getclosurevars(function)
    except (OSError, TypeError, SyntaxError, ValueError):
        return ""
    used = {**variables.globals, **variables.nonlocals}
    values = [f"{name}={_as_text(value)}" for name, value in sorted(used.items())]
    defaults = [_as_text(value) for value in getattr(function, "__defaults__", None) or ()]
    text = "\n".join([ast.unparse(tree), *values, *defaults])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _as_text(value: Any) -> str:
    """Write a value so that equal values give equal text in every process."""
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {summarize([value])[0].digest}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_text, value))}]"
    return repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__
