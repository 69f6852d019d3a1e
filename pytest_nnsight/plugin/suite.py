"""The built-in suite (``--nnsight-suite``): what every model should keep computing.

Collected as ordinary tests under ``nnsight-suite::``, so that ``-k``, ``-m``, ``--deselect`` and
``-n`` work on them. A model that takes no text is given made-up pictures or sound.
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
    """Every module's output on a short prompt, with a picture where the model takes both."""
    assert nnsight_capture.trace(_short(nnsight_capture.model)) == nnsight_golden


def test_long_prompt(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """Every module's output on a prompt long enough for positions and masks to matter."""
    if not _takes_text(nnsight_capture.model):
        pytest.skip("this model takes no text, and what it takes has one length")
    assert nnsight_capture.trace(LONG) == nnsight_golden


def test_no_stale_state(nnsight_capture: Any) -> None:
    """A short prompt gives the same after a long one: no module keeps stale state."""
    if not _takes_text(nnsight_capture.model):
        pytest.skip("this model takes no text, and what it takes has one length")
    short = _short(nnsight_capture.model)
    first = nnsight_capture.trace(short)
    nnsight_capture.trace(LONG)
    lines = _differences(first, nnsight_capture.trace(short))
    if lines:
        lines[0] = f"a short prompt differs after a long one, {lines[0]}"
        pytest.fail("\n".join(lines), pytrace=False)


def test_padded_batch(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """Prompts of different lengths in one batch: padding, masks and positions."""
    model = nnsight_capture.model
    batch = list(BATCH) if _takes_text(model) else _sample(model, rows=len(BATCH))
    assert nnsight_capture.trace(batch) == nnsight_golden


def test_greedy_generation(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """Tokens and every module's output at every step of a greedy generation."""
    if not nnsight_capture.can_generate:
        pytest.skip("this model cannot generate")
    prompt = _short(nnsight_capture.model)
    assert nnsight_capture.generate(prompt, max_new_tokens=8) == nnsight_golden


def _differences(first: Any, second: Any) -> list[str]:
    """Compare two runs of one prompt; return the lines of a report, none where they match."""
    from pytest_nnsight.compare.comparison import compare
    from pytest_nnsight.diagnose.diagnosis import Finding
    from pytest_nnsight.report.failure import comparison_lines, diagnose_finding

    comparison = compare(first, second)
    finding = Finding("first run", golden=first, received=second, comparison=comparison)
    return [] if comparison.matches else comparison_lines(finding, diagnose_finding(finding))


def _takes_text(model: Any) -> bool:
    from pytest_nnsight import nnsight_api
    from pytest_nnsight.capture.prompts import takes_ids

    return takes_ids(nnsight_api.torch_module(model))


def _short(model: Any) -> Any:
    """Return the short prompt: text, made-up numbers, or a picture and text behind it."""
    from pytest_nnsight import nnsight_api
    from pytest_nnsight.models.samples import picture_ids, sample

    if not _takes_text(model):
        return _sample(model, rows=1)
    module = nnsight_api.torch_module(model)
    picture = picture_ids(module)
    if not picture:
        return SHORT
    ids = [[*picture, *model.tokenizer(SHORT)["input_ids"]]]
    return {"input_ids": ids, "attention_mask": [[1] * len(ids[0])], **sample(module)}


def _sample(model: Any, rows: int) -> Any:
    from pytest_nnsight import nnsight_api
    from pytest_nnsight.models.samples import sample

    module = nnsight_api.torch_module(model)
    numbers = sample(module, rows)
    if not numbers:
        pytest.skip(f"what {type(module).__name__} takes is not known: give it in your own test")
    return numbers
