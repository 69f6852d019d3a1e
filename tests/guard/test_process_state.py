"""Functions that libraries replace on import are not leaks and are not restored."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch

from pytest_nnsight.guard.leak import take_snapshots
from pytest_nnsight.guard.process_state import snapshot_patches

SCRIPT = """
import torch
from pytest_nnsight.guard.leak import take_snapshots
from pytest_nnsight.guard.process_state import snapshot_patches

restore = take_snapshots([snapshot_patches], None)
before = torch.Tensor.backward
import torch._dynamo
import nnsight
assert torch.Tensor.backward is not before
assert (leaks := restore()) == [], leaks
assert torch.Tensor.backward is not before
"""


def test_functions_that_nnsight_and_dynamo_replace_on_import_are_not_restored() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], check=True)


def test_a_patch_from_a_folder_that_is_named_nnsight_is_found() -> None:
    names: dict[str, Any] = {}
    exec(compile("def patched(*a): pass", "/home/me/nnsight/tests/test_it.py", "exec"), names)
    restore, original = take_snapshots([snapshot_patches], None), torch.softmax
    torch.softmax = names["patched"]
    try:
        assert [leak.text for leak in restore()] == [
            "torch.softmax replaced for all tests, restored"
        ]
        assert torch.softmax is original
    finally:
        torch.softmax = original
