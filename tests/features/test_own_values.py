"""Goldens of values that a test saves in its own trace blocks, as a dict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_nnsight.errors import UsageError

CITY = "The Eiffel Tower is in the city of"


@pytest.fixture
def values(nnsight_model: Any) -> dict[str, Any]:
    """Return values of all kinds, saved in one trace."""
    layers = nnsight_model.model.layers
    hidden, attention = [], {}
    with torch.no_grad(), nnsight_model.trace(CITY):
        for number in range(4):
            attention[number] = layers[number].self_attn.output.save()
            hidden.append(layers[number].output[0].save())
        logits = nnsight_model.lm_head.output[0, -1].save()
    best = logits.topk(3)
    return {
        "hidden": {"layers": hidden, "norms": [float(h.norm()) for h in hidden]},
        "attention": attention,
        "array": logits[:64].numpy(),
        "margin": (best.values[0] - best.values[1]).item(),
        "ids": best.indices.tolist(),
        "text": nnsight_model.tokenizer.batch_decode(best.indices[:, None]),
        "is_sure": bool(best.values[0] > 1.2 * best.values[1]),
        "nothing": [],
    }


@pytest.mark.feature("own values", "nested dicts and lists, arrays, numbers, text, tuples")
def test_values_of_all_kinds(values: dict[str, Any], nnsight_golden: Any) -> None:
    assert values["text"][0] == " Paris"
    assert values == nnsight_golden


@pytest.mark.feature("own values", "the output of the whole model")
def test_output_of_the_model(nnsight_model: Any, nnsight_golden: Any) -> None:
    with torch.no_grad(), nnsight_model.trace(CITY):
        output = nnsight_model.output.save()
    assert output.logits.argmax(-1)[0, -1] == 7042
    assert {"output": output} == nnsight_golden


@pytest.mark.feature("own values", "from several traces, in one golden")
def test_values_of_several_traces(nnsight_model: Any, nnsight_golden: Any) -> None:
    answers = {}
    for place in ("Eiffel Tower", "Colosseum", "Brandenburg Gate"):
        with torch.no_grad(), nnsight_model.trace(f"The {place} is in the city of"):
            answers[place] = nnsight_model.lm_head.output[0, -1].save()
    assert answers == nnsight_golden


@pytest.mark.feature("own values", "a value that cannot be compared is refused, with its key")
def test_refused_values(nnsight_golden: Any) -> None:
    for value, message in (
        ({"a": {"b": [object()]}}, r"a\.b\[0\] is a object; a golden takes tensors, arrays, "),
        ({"a": None}, r"a is a NoneType; .* \(was it saved inside the trace\?\)"),
        ({3: np.ones(2)}, "the names of tensors must be text, got 3"),
        ({"a": {"b": 1}, "a.b": 2}, r"two values have the name a\.b; rename one"),
        ({}, "the dict of tensors is empty; there is nothing to compare"),
    ):
        with pytest.raises(UsageError, match=message):
            nnsight_golden.extension.context.live_host.as_run(value)
