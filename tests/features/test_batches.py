"""Several prompts in one batch: each gets a separate run without padding."""

from __future__ import annotations

from typing import Any

import pytest

PROMPTS = ["The Eiffel Tower is in the city of", "Water boils at", "The opposite of hot is"]
PARTS = ["model.layers.*", "model.norm", "lm_head"]
NO_POSITIONS = "no positions are passed for padding, so a padded prompt has other positions"


@pytest.mark.feature(
    "batching", "a prompt of a padded batch equals the golden of that prompt alone"
)
def test_batch_equals_single_prompts(
    since_nnsight: Any, nnsight_capture: Any, nnsight_golden: Any
) -> None:
    since_nnsight(8, NO_POSITIONS)
    for number, run in enumerate(nnsight_capture.trace_each(PROMPTS, modules=PARTS)):
        golden = nnsight_golden(name=f"prompt {number}")
        assert nnsight_capture.trace(PROMPTS[number], modules=PARTS) == golden
        assert run == golden


@pytest.mark.feature("batching", "a prompt equals its run alone in an encoder, padded on the right")
@pytest.mark.nnsight(model="tiny:bert")
def test_batch_of_an_encoder(nnsight_capture: Any, nnsight_golden: Any) -> None:
    for number, run in enumerate(nnsight_capture.trace_each(PROMPTS)):
        assert run.prompt.text == PROMPTS[number]
        assert run == nnsight_golden(name=f"prompt {number}")
        assert nnsight_capture.trace(PROMPTS[number]) == nnsight_golden(name=f"prompt {number}")


@pytest.mark.feature(
    "batching", "a prompt equals its run alone in an encoder-decoder that generates"
)
@pytest.mark.nnsight(model="tiny:t5")
def test_batch_of_an_encoder_decoder(nnsight_capture: Any, nnsight_golden: Any) -> None:
    runs = nnsight_capture.generate_each(PROMPTS[:2], max_new_tokens=3, modules="**.block.*")
    for number, run in enumerate(runs):
        single = nnsight_capture.generate(PROMPTS[number], max_new_tokens=3, modules="**.block.*")
        assert run == nnsight_golden(name=f"prompt {number}")
        assert single == nnsight_golden(name=f"prompt {number}")


@pytest.mark.feature("batching", "an intervention for one prompt of an encoder-decoder")
@pytest.mark.nnsight(model="tiny:t5")
def test_intervention_on_one_prompt(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def zero(model: Any) -> None:
        model.encoder.block[1].layer[1].output[:] = 0

    settings = {"max_new_tokens": 3, "modules": "encoder.block.*"}
    runs = nnsight_capture.generate_each(PROMPTS[:2], intervene=[None, zero], **settings)
    first = [next(leaf for leaf in run.calls[0].leaves if leaf.at == "out[0]") for run in runs]
    assert [leaf.summary.shape for leaf in first] == [(1, 34, 64), (1, 14, 64)]
    single = nnsight_capture.generate(PROMPTS[1], intervene=zero, **settings)
    assert runs[1].token_ids == single.token_ids
    assert runs[0].prompt.generation["beside"] == f"['{PROMPTS[1]}']"
    assert runs[1] == nnsight_golden


@pytest.mark.feature("batching", "generation, each prompt to its own end")
def test_batch_generation(nnsight_model: Any, nnsight_capture: Any, nnsight_golden: Any) -> None:
    stop = nnsight_model.tokenizer(".")["input_ids"]
    runs = nnsight_capture.generate_each(
        PROMPTS, max_new_tokens=6, modules=["model.norm", "lm_head"], eos_token_id=stop
    )
    lengths = [len(run.token_ids) for run in runs]
    assert len(set(lengths)) > 1
    for number, run in enumerate(runs):
        single = nnsight_capture.generate(
            PROMPTS[number],
            max_new_tokens=6,
            modules=["model.norm", "lm_head"],
            eos_token_id=stop,
        )
        assert run.token_ids == single.token_ids
        assert run == nnsight_golden(name=f"prompt {number}")
        assert single == nnsight_golden(name=f"prompt {number}")


@pytest.mark.feature(
    "batching", "one intervention for the whole batch, in an invoke without a prompt"
)
@pytest.mark.nnsight(model="tiny:gpt2")
def test_intervention_on_the_batch(nnsight_capture: Any, nnsight_golden: Any) -> None:
    shapes: list[tuple[int, ...]] = []

    def zero(model: Any) -> None:
        shapes.append(tuple(model.transformer.h[0].mlp.output.shape))
        model.transformer.h[0].mlp.output[:] = 0

    same = ["Paris is", "Water is"]  # of one length, so that no version pads
    runs = nnsight_capture.trace_each(same, modules="transformer.h.*", intervene=zero)
    assert shapes == [(2, 8, 64)]
    for prompt, run in zip(same, runs, strict=True):
        assert run == nnsight_golden(name=prompt)
        single = nnsight_capture.trace(prompt, modules="transformer.h.*", intervene=zero)
        assert single == nnsight_golden(name=prompt)


@pytest.mark.feature("batching", "a user's invoke without a prompt sees the whole batch")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_invoke_without_prompt(nnsight_model: Any, nnsight_golden: Any) -> None:
    seen: dict[str, Any] = {}
    with nnsight_model.trace() as tracer:
        with tracer.invoke("Paris is"):
            seen["first"] = nnsight_model.transformer.h[0].mlp.output.save()
        with tracer.invoke("Water is"):
            seen["second"] = nnsight_model.transformer.h[0].mlp.output.save()
        with tracer.invoke():
            seen["all"] = nnsight_model.transformer.h[0].mlp.output.save()
    assert [tuple(value.shape) for value in seen.values()] == [(1, 8, 64), (1, 8, 64), (2, 8, 64)]
    assert seen == nnsight_golden
