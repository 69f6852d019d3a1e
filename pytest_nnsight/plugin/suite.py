"""The built-in suite of ``--nnsight-suite``: tests that fit every model.

They are ordinary tests below the node id ``nnsight-suite``, so ``-k``, ``-m``, ``--deselect`` and
``-n`` work. A model without text inputs gets synthetic pictures or sound.
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
    """Compare every module's output on a short prompt, and a picture if the model takes both."""
    assert nnsight_capture.trace(_short_prompt(nnsight_capture.model)) == nnsight_golden


def test_long_prompt(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """Compare every module's output on a long prompt, where positions and masks matter."""
    if not _takes_text(nnsight_capture.model):
        pytest.skip("this model takes no text, and its inputs have one length only")
    assert nnsight_capture.trace(LONG) == nnsight_golden


def test_no_stale_state(nnsight_capture: Any) -> None:
    """Check that a short prompt computes the same after a long one: no module has stale state."""
    if not _takes_text(nnsight_capture.model):
        pytest.skip("this model takes no text, and its inputs have one length only")
    from pytest_nnsight.compare.comparison import compare
    from pytest_nnsight.diagnose.diagnosis import Finding
    from pytest_nnsight.report.failure import comparison_lines, diagnose_finding

    short = _short_prompt(nnsight_capture.model)
    first = nnsight_capture.trace(short)
    nnsight_capture.trace(LONG)
    second = nnsight_capture.trace(short)
    comparison = compare(first, second)
    if not comparison.matches:
        finding = Finding("first run", golden=first, received=second, comparison=comparison)
        text = "\n".join(comparison_lines(finding, diagnose_finding(finding)))
        pytest.fail(f"a short prompt differs after a long one, {text}", pytrace=False)


def test_padded_batch(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """Compare a batch of prompts of different lengths: padding, masks and positions."""
    model = nnsight_capture.model
    batch = list(BATCH) if _takes_text(model) else _synthetic_inputs(model, rows=len(BATCH))
    assert nnsight_capture.trace(batch) == nnsight_golden


def test_greedy_generation(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """Compare the tokens, and every module's output at every step, of a greedy generation."""
    if not nnsight_capture.can_generate:
        pytest.skip("this model cannot generate")
    prompt = _short_prompt(nnsight_capture.model)
    assert nnsight_capture.generate(prompt, max_new_tokens=8) == nnsight_golden


def _takes_text(model: Any) -> bool:
    from pytest_nnsight import nnsight_api
    from pytest_nnsight.capture.prompts import takes_ids

    return takes_ids(nnsight_api.torch_module(model))


def _short_prompt(model: Any) -> Any:
    """Return the short prompt: text, synthetic inputs, or a picture followed by text."""
    from pytest_nnsight import nnsight_api
    from pytest_nnsight.models.samples import image_token_ids, sample

    if not _takes_text(model):
        return _synthetic_inputs(model, rows=1)
    module = nnsight_api.torch_module(model)
    picture = image_token_ids(module)
    if not picture:
        return SHORT
    ids = [[*picture, *model.tokenizer(SHORT)["input_ids"]]]
    return {"input_ids": ids, "attention_mask": [[1] * len(ids[0])], **sample(module)}


def _synthetic_inputs(model: Any, rows: int) -> Any:
    from pytest_nnsight import nnsight_api
    from pytest_nnsight.models.samples import sample

    module = nnsight_api.torch_module(model)
    numbers = sample(module, rows)
    if not numbers:
        name = type(module).__name__
        pytest.skip(f"the suite cannot make inputs for {name}; pass them in your own test")
    return numbers
