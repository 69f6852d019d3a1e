"""The modules of one class that each start a drift are counted."""

from __future__ import annotations

from typing import Any

import pytest
from builders import (
    OTHER_THREADS,
    drift_from,
    make_pass,
    origin_of,
)


@pytest.mark.parametrize("environment", [{}, OTHER_THREADS], ids=["same", "threads"])
def test_all_modules_of_a_class_that_start_a_drift_are_counted(
    environment: dict[str, Any],
) -> None:
    """Like the norms of a model whose epsilon changed."""
    size = [0.0]

    def drift(time: int, label: str) -> float:
        if label.endswith("norm"):
            size[0] = 5 * size[0] + 6e-6
        return size[0]

    received = make_pass(drift, layers=2, environment=environment)
    found = origin_of(make_pass(layers=2), received)
    assert found.where == "model.layers.0.input_layernorm"
    assert found.class_count == "5 of 5 LlamaRMSNorm"


def test_thirty_layers_of_norms_are_counted() -> None:
    def drift(time: int, label: str) -> float:
        return 1e-2 if label.endswith("norm") else 0.0

    found = origin_of(make_pass(layers=30), make_pass(drift, layers=30))
    assert found.class_count == "61 of 61 LlamaRMSNorm"


@pytest.mark.parametrize(("count", "expected"), [(2, ""), (3, "3 of 15 LlamaRMSNorm")])
def test_few_modules_that_start_a_drift_are_not_counted(count: int, expected: str) -> None:
    """One or two may only amplify noise: at least three, and a fifth of the class, count."""
    starting = [f"model.layers.{i}.input_layernorm" for i in range(count)]
    drift = dict.fromkeys(starting, 0.01)
    received = make_pass(lambda time, label: drift.get(label, 0.0), layers=7)
    assert origin_of(make_pass(layers=7), received).class_count == expected
    for layers in (8, 2):
        other = make_pass(lambda time, label: drift.get(label, 0.0), layers=layers)
        assert origin_of(make_pass(layers=layers), other).class_count == ""


def test_modules_of_another_class_are_not_counted() -> None:
    def drift(time: int, label: str) -> float:
        return 1e-2 if label.endswith(("norm", "up_proj", "act_fn")) else 0.0

    found = origin_of(make_pass(), make_pass(drift))
    assert found.class_count == "5 of 5 LlamaRMSNorm"


def test_modules_that_pass_on_a_drift_are_not_counted() -> None:
    received = make_pass(drift_from("model.layers.0.input_layernorm"), layers=3)
    assert origin_of(make_pass(layers=3), received).class_count == ""
