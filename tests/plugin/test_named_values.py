"""A changed value of a dict is named by its key, a nested one by all its keys."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

VALUES = """
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
"""
STARTS = {
    "layer": "hidden.layers[[]1] (rel *",
    "number": "hidden.by number[[]0] (rel *",
    "array": "array (rel *",
    "best": "best (rel *",
    "text": "text[[]0] *",
    "pair": "pair out[[]0] (rel *",
    "fewer": "hidden.layers[[]1] *",
}


def test_a_changed_value_is_named_by_its_keys(
    project: Project, monkeypatch: pytest.MonkeyPatch, first_line: Callable[..., str]
) -> None:
    project.test_file(VALUES)
    project.write_goldens(*TINY, passed=8)
    monkeypatch.setenv("CHANGE", "1")
    result = project.run(*TINY)
    result.assert_outcomes(passed=1, failed=7)
    for what, start in STARTS.items():
        line = first_line(result, f"test_changed[{what}]")
        assert fnmatchcase(line, f"golden drift: 1 of 8 calls, starts at {start}"), line
