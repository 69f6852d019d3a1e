"""Faults in a test's intervention: it no longer does what it did for the golden."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any

from benchmarks.faults.fault import fault
from benchmarks.faults.probe import NEW_TOKENS, Probe
from benchmarks.faults.variant import Variant

# Not BERT, whose modules named output hide nnsight's.
intervened = functools.partial(fault, causes="intervention", families=("gpt2", "llama", "t5"))


def envoy(model: Any, path: str) -> Any:
    """Return nnsight's envoy of a module."""
    return reduce(
        lambda node, name: node[int(name)] if name.isdigit() else getattr(node, name),
        path.split("."),
        model,
    )


def scaled(path: str, factor: float) -> Callable[[Any], None]:
    """Return an intervention that scales the output of a module."""

    def scale(model: Any) -> None:
        module = envoy(model, path)
        module.output = module.output * factor

    return scale


def with_scaled_mlp(variant: Variant) -> Probe:
    """Run the probe with the middle MLP at half its output."""
    return replace(variant.probe, intervene=scaled(variant.roles.path("mlp middle"), 0.5))


@intervened(starts="mlp middle", golden=with_scaled_mlp)
def an_intervention_that_writes_to_a_copy(variant: Variant) -> None:
    """Change a copy of the output and do not assign it."""
    path = variant.roles.path("mlp middle")

    def scale(model: Any) -> None:
        copied = envoy(model, path).output.clone()
        copied *= 0.5

    variant.probe = replace(variant.probe, intervene=scale)


@intervened(starts="mlp middle", golden=with_scaled_mlp)
def an_intervention_of_another_size(variant: Variant) -> None:
    """Scale by 0.505; the golden scaled by 0.5."""
    variant.probe = replace(
        variant.probe, intervene=scaled(variant.roles.path("mlp middle"), 0.505)
    )


@intervened(starts="mlp first", golden=with_scaled_mlp)
def an_intervention_in_another_layer(variant: Variant) -> None:
    """Scale the first layer's MLP; the golden scaled the middle one's."""
    variant.probe = replace(variant.probe, intervene=scaled(variant.roles.path("mlp first"), 0.5))


@fault(
    starts="mlp middle",
    golden=with_scaled_mlp,
    causes="intervention",
    families=("gpt2", "llama"),  # T5's encoder runs once
    kinds=("generate",),
)
def an_intervention_of_the_first_step_only(variant: Variant) -> None:
    """Scale at every step with ``tracer.iter``; the golden scaled at the first step."""
    path = variant.roles.path("mlp middle")

    def scale(model: Any, tracer: Any) -> None:
        for _ in tracer.iter[:NEW_TOKENS]:
            module = envoy(model, path)
            module.output = module.output * 0.5

    variant.probe = replace(variant.probe, intervene=scale)


@fault(starts="mlp middle", causes=("intervention", "code"), families=("gpt2", "llama", "t5"))
def an_edit_left_behind(variant: Variant) -> None:
    """Leave a persistent edit of another test on the model."""
    path = variant.roles.path("mlp middle")

    def edit(model: Any) -> None:
        with model.edit(inplace=True):
            envoy(model, path).output = envoy(model, path).output * 1.01

    variant.prepare.append(edit)
