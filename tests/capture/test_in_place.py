"""Tensors wait until many are measured together: a change in place meanwhile must not show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import pytest
import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.run import Run

PROMPT = "The cat sat"


@contextmanager
def changing(capture: Capture, change: Callable[..., Any]) -> Iterator[list[int]]:
    """Let an activation change its input, as ``ReLU(inplace=True)``; count the forwards."""
    module = nnsight_api.torch_module(capture.model)
    forwards: list[int] = []
    activation = module.get_submodule("transformer.h.1.mlp.act")
    hooks = [
        activation.register_forward_pre_hook(change),
        module.register_forward_pre_hook(lambda *_: forwards.append(1)),
    ]
    try:
        yield forwards
    finally:
        for hook in hooks:
            hook.remove()


def double(module: Any, arguments: tuple[torch.Tensor]) -> None:
    arguments[0].mul_(2)


def instead(module: Any, arguments: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (arguments[0] * 2,)


@pytest.fixture
def fresh(capture_of: Callable[..., Capture]) -> Capture:
    """A model that no capture has yet found to change outputs in place."""
    return replace(capture_of("tiny:gpt2", attn="eager"), changing=WeakSet())


def outputs_of(run: Run) -> list[tuple[str, Any]]:
    return [
        (call.label, leaf.summary)
        for call in run.calls
        for leaf in call.leaves
        if leaf.at.startswith("out")
    ]


@pytest.mark.parametrize("kind", ["trace", "generate", "trace_each", "generate_each"])
def test_what_a_module_gave_is_recorded_as_it_gave_it(fresh: Capture, kind: str) -> None:
    """The run is the same as where a new tensor is made; the first of a model is run again."""

    def take() -> list[Run]:
        if kind == "trace":
            return [fresh.trace(PROMPT)]
        if kind == "generate":
            return [fresh.generate(PROMPT, max_new_tokens=3)]
        if kind == "trace_each":
            return fresh.trace_each([PROMPT, "Hi"])
        return fresh.generate_each([PROMPT, "Hi"], max_new_tokens=3)

    with changing(fresh, instead) as forwards:
        expected = take()
    once = len(forwards)
    with changing(fresh, double) as forwards:
        first = take()
        assert len(forwards) == 2 * once
        again = take()
        assert len(forwards) == 3 * once
    for runs in (first, again):
        assert [*map(outputs_of, runs)] == [*map(outputs_of, expected)]


def test_a_test_with_code_of_its_own_runs_once(fresh: Capture) -> None:
    """Whatever it changes in place; it may count its calls."""
    seen: list[Any] = []

    def zero(model: Any) -> None:
        model.transformer.h[1].mlp.output[:] = 0
        seen.append(model.transformer.h[1].output)

    plain = dict(outputs_of(fresh.trace(PROMPT)))
    found = dict(outputs_of(fresh.trace(PROMPT, intervene=zero)))
    assert len(seen) == 1
    assert found["transformer.h.1.mlp.c_proj"] == plain["transformer.h.1.mlp.c_proj"]
    assert found["transformer.h.1.mlp"].maximum == 0

    class Counting:
        calls = 0

        def __call__(self, ids: Any, scores: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return scores

    processor = Counting()
    with changing(fresh, double) as forwards:
        fresh.generate(PROMPT, max_new_tokens=3, logits_processor=[processor])
    assert (processor.calls, len(forwards)) == (3, 3)


def test_a_model_in_training_runs_once(fresh: Capture) -> None:
    """Its dropout draws, and its buffers change, at every run."""
    module = nnsight_api.torch_module(fresh.model)
    part = module.get_submodule("transformer.h.0")
    part.train()
    try:
        with changing(fresh, double) as forwards:
            fresh.trace(PROMPT)
        assert len(forwards) == 1
    finally:
        part.eval()


def test_gradients_are_computed_once(fresh: Capture) -> None:
    def top(model: Any) -> Any:
        return model.lm_head.output[0, -1].max()

    with changing(fresh, double) as forwards:
        fresh.trace(PROMPT, gradient_of=top)
    assert len(forwards) == 1
