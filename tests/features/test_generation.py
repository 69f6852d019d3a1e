"""Goldens of generations: which steps, how they end, how tokens are selected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_nnsight.errors import UsageError

CITY = "The Eiffel Tower is in the city of"
HEAD = ["model.norm", "lm_head"]
QUESTION = [{"role": "user", "content": "Name three colors."}]


@pytest.mark.feature("generation", "steps by number, list and slice")
@pytest.mark.parametrize(
    ("steps", "visits"),
    [(3, [3]), ([0, 2], [0, 2]), (slice(1, 6, 2), [1, 3, 5])],
    ids=["number", "list", "slice"],
)
def test_steps(nnsight_capture: Any, nnsight_golden: Any, steps: Any, visits: list[int]) -> None:
    run = nnsight_capture.generate(CITY, max_new_tokens=6, modules=HEAD, steps=steps)
    assert [call.visit for call in run.calls if call.path == "lm_head"] == visits
    assert len(run.token_ids) == 6
    assert run == nnsight_golden


@pytest.mark.feature("generation", "an early end, and an error for a step after it")
def test_early_end(nnsight_model: Any, nnsight_capture: Any, nnsight_golden: Any) -> None:
    settings = {"max_new_tokens": 12, "modules": HEAD}
    settings["eos_token_id"] = nnsight_model.tokenizer(" Paris")["input_ids"][0]
    run = nnsight_capture.generate(CITY, **settings)
    ran = len(run.token_ids)
    assert run.token_ids[-1] == settings["eos_token_id"]
    assert ran < 12
    assert [call.visit for call in run.calls if call.path == "lm_head"] == list(range(ran))
    assert run == nnsight_golden
    with pytest.raises(UsageError, match=rf"asks for step 11, but {ran} steps ran"):
        nnsight_capture.generate(CITY, steps=[0, 11], **settings)


@pytest.mark.feature("generation", "an intervention at a step that never comes is an error")
def test_intervention_at_a_step_that_did_not_run(nnsight_capture: Any) -> None:
    def zero(model: Any) -> None:
        model.model.layers[5].mlp.output[:] = 0

    with pytest.raises(UsageError, match=r"intervene_at=\[9\] asks for step 9, but 3 steps ran"):
        nnsight_capture.generate(CITY, max_new_tokens=3, intervene=zero, intervene_at=9)


@pytest.mark.feature("generation", "tokens are streamed as they are generated")
def test_streaming(nnsight_model: Any, nnsight_capture: Any, nnsight_golden: Any) -> None:
    from transformers import TextStreamer

    class Heard(TextStreamer):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            heard.append(text)

    heard: list[str] = []
    streamer = Heard(nnsight_model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    run = nnsight_capture.generate(CITY, max_new_tokens=6, modules=HEAD, streamer=streamer)
    assert "".join(heard) == run.text
    assert run.prompt.generation["streamer"] == "Heard"
    assert run == nnsight_golden


@pytest.mark.feature("generation", "a chat, by the model's template")
def test_chat(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.generate(QUESTION, max_new_tokens=8, modules=HEAD)
    assert run.prompt.text == QUESTION
    assert run == nnsight_golden


@pytest.mark.feature("generation", "beams, and several sequences of them")
def test_beams(since_nnsight: Any, nnsight_capture: Any, nnsight_golden: Any) -> None:
    since_nnsight(8, "it passes a streamer, which transformers refuses with beams")
    run = nnsight_capture.generate(
        CITY, max_new_tokens=4, modules=HEAD, num_beams=3, num_return_sequences=2
    )
    assert len(run.generated.token_ids) == 2
    assert run == nnsight_golden


@pytest.mark.feature("generation", "sampling with a seed, which is in the golden")
def test_sampling(nnsight_capture: Any, nnsight_golden: Any) -> None:
    sampled = [
        nnsight_capture.generate(
            QUESTION, max_new_tokens=6, modules=HEAD, do_sample=True, temperature=1.5, seed=seed
        )
        for seed in (3, 3, 4)
    ]
    assert sampled[0].token_ids == sampled[1].token_ids != sampled[2].token_ids
    assert sampled[0].prompt.generation["seed"] == 3
    assert sampled[0] == nnsight_golden


@pytest.mark.feature("generation", "logits and margins of each step")
def test_logits_and_margins(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.generate(CITY, max_new_tokens=4, modules=HEAD, keep="lm_head")
    logits = [run["lm_head", step].output[0, -1] for step in range(4)]
    assert [int(row.argmax()) for row in logits] == run.token_ids
    top = [row.topk(2).values for row in logits]
    expected = torch.stack([values[0] - values[1] for values in top])
    margins = torch.tensor(np.frombuffer(run.generated.margins[0], "<f4").copy())
    torch.testing.assert_close(margins, expected, rtol=1e-5, atol=1e-5)
    assert run == nnsight_golden


@pytest.mark.feature("generation", "a near tie is distinguished from a real change of a token")
@pytest.mark.parametrize("by", [1e-5, 5.0], ids=["near tie", "real change"])
def test_near_tie(nnsight_capture: Any, nnsight_golden: Any, by: float) -> None:
    """The golden has the first of two tokens by a tiny margin, the run the second."""
    from pytest_nnsight.compare.comparison import compare

    lead = {"value": min(by, 1e-5)}

    def tie(model: Any) -> None:
        logits = model.lm_head.output
        first, second = (int(i) for i in logits[0, -1].topk(2).indices)
        logits[0, -1, second] = logits[0, -1, first] - lead["value"]

    settings = {"max_new_tokens": 5, "modules": HEAD, "intervene": tie, "intervene_at": 2}
    run = nnsight_capture.generate(CITY, **settings)
    assert run == nnsight_golden
    lead["value"] = -by
    divergence = compare(run, nnsight_capture.generate(CITY, **settings)).divergence
    assert divergence is not None
    assert (divergence.step, divergence.is_near_tie) == (2, by < 1)
