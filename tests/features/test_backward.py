"""Goldens of gradients, and of a backward pass of the user."""

from __future__ import annotations

from typing import Any

import pytest
import torch

CITY = "The Eiffel Tower is in the city of"


@pytest.mark.feature("gradients", "of a logit, with respect to every layer")
def test_gradient_of_a_logit(nnsight_model: Any, nnsight_capture: Any, nnsight_golden: Any) -> None:
    paris = nnsight_model.tokenizer(" Paris")["input_ids"][0]
    run = nnsight_capture.trace(
        CITY,
        modules="model.layers.*",
        gradient_of=lambda model: model.lm_head.output[0, -1, paris],
    )
    assert [call.path for call in run.calls].count("gradient.model.layers.29") == 1
    assert run == nnsight_golden


@pytest.mark.feature("gradients", "of several scalars, in one run")
@pytest.mark.nnsight(model="tiny:llama")
def test_gradients_of_several_scalars(
    nnsight_model: Any, nnsight_capture: Any, nnsight_golden: Any
) -> None:
    scalars = {
        "first": lambda model: model.lm_head.output[0, 0].max(),
        "norm": lambda model: model.lm_head.output.norm(),
    }
    run = nnsight_capture.trace("Hello", modules="model.layers.*", gradient_of=scalars)
    assert {call.path.split(".")[1] for call in run.calls[2:]} == {"first", "norm"}
    assert all(p.grad is None for p in nnsight_model._module.parameters())
    assert run == nnsight_golden


@pytest.mark.feature("gradients", "with respect to operations inside a forward")
@pytest.mark.nnsight(model="tiny:llama")
def test_gradients_of_operations(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace(
        "Hello",
        modules="**.o_proj",
        operations="model.layers.*.self_attn.source.attention_interface",
        gradient_of=lambda model: model.lm_head.output[0, -1].max(),
    )
    inner = [call.path for call in run.calls if call.path.startswith("gradient.")]
    assert inner == [
        "gradient.model.layers.1.self_attn.o_proj",
        "gradient.model.layers.1.self_attn.source.attention_interface",
        "gradient.model.layers.0.self_attn.o_proj",
        "gradient.model.layers.0.self_attn.source.attention_interface",
    ]
    assert run == nnsight_golden


@pytest.mark.feature("gradients", "under an intervention")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_gradient_under_an_intervention(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def halve(model: Any) -> None:
        model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output / 2

    def top(model: Any) -> torch.Tensor:
        return model.lm_head.output[0, -1].max()

    runs = [
        nnsight_capture.trace("Hello", modules="transformer.h.*", intervene=i, gradient_of=top)
        for i in (halve, None)
    ]
    gradients = [run["gradient.transformer.h.0"].call.leaves[0].summary for run in runs]
    assert gradients[0].rms != gradients[1].rms
    assert runs[0] == nnsight_golden


@pytest.mark.feature("gradients", "a user's backward leaves gradients; the guard drops them")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_backward_in_a_trace(nnsight_model: Any, nnsight_golden: Any) -> None:
    with nnsight_model.trace("Hello"):
        hidden = nnsight_model.transformer.h[1].output
        hidden.requires_grad_(True)
        loss = nnsight_model.lm_head.output[0, -1].max()
        with loss.backward():
            gradient = hidden.grad.save()
    assert {"gradient": gradient} == nnsight_golden
