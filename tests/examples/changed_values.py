"""Goldens of a dict of values, one of which changes where ``CHANGE`` is set."""

import os

import pytest
import torch

CHANGE = os.environ.get("CHANGE", "")


def values(model):
    hidden = []
    with torch.no_grad(), model.trace("Hello"):
        for layer in model.transformer.h:
            hidden.append(layer.mlp.output.save())
        logits = model.lm_head.output[0, -1].save()
    return {
        "hidden": {"layers": hidden, "by number": dict(enumerate(hidden))},
        "array": logits.numpy(),
        "best": logits.max().item(),
        "text": ["b"],
        "pair": (logits, None),
    }


def test_same(nnsight_model, nnsight_golden):
    assert values(nnsight_model) == nnsight_golden


@pytest.mark.parametrize("what", ["layer", "number", "array", "best", "text", "pair", "fewer"])
def test_changed(nnsight_model, nnsight_golden, what):
    found = values(nnsight_model)
    if CHANGE:
        layers, by_number = found["hidden"].values()
        if what == "layer":
            layers[1] = layers[1] * 1.001
        if what == "number":
            by_number[0] = by_number[0] * 1.001
        if what == "array":
            found["array"] = found["array"] * 1.001
        if what == "best":
            found["best"] *= 1.001
        if what == "text":
            found["text"] = ["c"]
        if what == "pair":
            found["pair"] = (found["pair"][0] * 1.001, None)
        if what == "fewer":
            layers.pop()
    assert found == nnsight_golden
