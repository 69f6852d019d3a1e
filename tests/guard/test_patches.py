"""Functions that libraries replace on import are not leaks and are not restored."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import torch
from pytest_nnsight.guard.patches import snapshot_patches

restore = snapshot_patches(None)
before = torch.Tensor.backward
import torch._dynamo
import nnsight
assert torch.Tensor.backward is not before
assert [*restore()] == [], [*restore()]
assert torch.Tensor.backward is not before
"""


def test_functions_that_nnsight_and_dynamo_replace_on_import_are_not_restored() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], check=True)
