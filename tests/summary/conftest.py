"""The tests of summaries measure small tensors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Measure on one thread: on shared cores, threads that wait for each other are 10 times slower.

    Restored after each file, since other tests run in this very process.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
