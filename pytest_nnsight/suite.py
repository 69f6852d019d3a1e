"""The built-in suite (``--nnsight-suite``): what every language model should keep computing.

Collected as ordinary tests under ``nnsight-suite::``, so that ``-k``, ``-m``, ``--deselect`` and
``-n`` work on them.
"""

from __future__ import annotations

from typing import Any

import pytest

SHORT = "The Eiffel Tower is in the city of"
LONG = (
    "A lighthouse keeper writes one line into the log every evening: the wind, the height of the "
    "sea, the ships that passed, and whether the lamp was lit in time. On the first day of winter "
    "she wrote that a grey bird had come in through the open window and would not leave. "
)
BATCH = ("Two and two make", "The capital of France is the city of", "Water")


def test_short_prompt(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """Every module's output on a short prompt."""
    assert nnsight_capture.trace(SHORT) == nnsight_golden


def test_long_prompt(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """Every module's output on a prompt long enough for positions and masks to matter."""
    assert nnsight_capture.trace(LONG) == nnsight_golden


def test_padded_batch(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """Prompts of different lengths in one batch: padding, masks and positions."""
    assert nnsight_capture.trace(list(BATCH)) == nnsight_golden


def test_greedy_generation(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """Tokens and every module's output at every step of a greedy generation."""
    if not nnsight_capture.can_generate:
        pytest.skip("this model cannot generate")
    assert nnsight_capture.generate(SHORT, max_new_tokens=8) == nnsight_golden
