"""The digest of an intervention tells another one, and takes whatever tensor it uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_nnsight.capture.callbacks import code_digest


def steering(direction: Any) -> Callable[[Any], None]:
    def steer(model: Any) -> None:
        model.output[:] += direction

    return steer


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.ones(3, dtype=torch.complex64),
        torch.ones(3, dtype=torch.bfloat16, requires_grad=True),
        torch.tensor([True, False]),
        torch.empty(0),
    ],
    ids=["sparse", "meta", "complex", "bfloat16", "bool", "empty"],
)
def test_any_tensor_may_steer(tensor: torch.Tensor) -> None:
    assert code_digest(steering(tensor)) == code_digest(steering(tensor.clone()))


def test_another_size_or_direction_is_another_intervention() -> None:
    direction = torch.zeros(5000)
    moved = direction.clone()
    moved[-1] = 1e-6
    codes = [code_digest(steering(value)) for value in (1.0, 2.0, direction, moved)]
    assert len({*codes}) == 4
