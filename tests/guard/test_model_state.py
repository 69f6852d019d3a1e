"""Plain attributes of modules are restored, whatever a test put in their place."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from pytest_nnsight.guard.leak import Severity, take_snapshots
from pytest_nnsight.guard.model_state import snapshot_unsaved


def test_an_attribute_that_was_replaced_by_a_tensor_is_restored() -> None:
    module = torch.nn.Linear(2, 2)
    module.scale = 1.5
    restore = take_snapshots([snapshot_unsaved], SimpleNamespace(_module=module))
    module.scale = torch.ones(3)
    (leak,) = restore()
    assert (leak.text, leak.severity) == ("unsaved state changed: scale, restored", Severity.NOTE)
    assert module.scale == 1.5
