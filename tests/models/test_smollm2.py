"""Compare captures of a trained model, SmolLM2-135M-Instruct, with goldens in ``golden/``.

``make test-trained`` runs this with ``--nnsight-model smollm2=FOLDER``.
"""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nnsight.golden.document import encode

TEXT = (
    "A lighthouse keeper writes one line into the log every evening: the wind, the height of the "
    "sea, the ships that passed, and whether the lamp was lit in time. On the first day of winter "
    "she wrote that a grey bird had come in through the open window and would not leave. "
)
CITY = "The Eiffel Tower is in the city of"


def test_every_module_on_256_tokens(
    nnsight_model: Any, nnsight_capture: Any, nnsight_golden: Any
) -> None:
    ids = nnsight_model.tokenizer(TEXT * 6)["input_ids"][:256]
    run = nnsight_capture.trace(ids)
    assert len(run.calls) == 396
    assert run == nnsight_golden


@pytest.mark.parametrize(("tokens", "most"), [(10, 300_000), (256, 1_000_000)])
def test_a_golden_of_every_module_is_small(
    nnsight_model: Any, nnsight_capture: Any, tokens: int, most: int
) -> None:
    """``most`` is in bytes, for the inputs and outputs of every module."""
    ids = nnsight_model.tokenizer(TEXT * 6)["input_ids"][:tokens]
    assert len(encode(nnsight_capture.trace(ids)).encode()) <= most


def test_every_module_at_each_of_16_steps(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.generate(CITY, max_new_tokens=16)
    assert run.text.startswith(". Paris.") or run.text.startswith(" Paris")
    assert len(run.calls) == 396 * 16
    assert run == nnsight_golden


def test_a_chat_answers_without_prompt_or_template(
    nnsight_capture: Any, nnsight_golden: Any
) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    run = nnsight_capture.generate(messages, max_new_tokens=8, modules="model.layers.*")
    assert run.text == "The capital of France is Paris."
    assert run == nnsight_golden


def test_residual_stream_of_a_padded_batch(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace([CITY, "Water"], modules=["model.layers.*", "lm_head"])
    assert run == nnsight_golden


def test_ablation(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def zero_mlp(model: Any) -> None:
        model.model.layers[5].mlp.output[:] = 0

    assert nnsight_capture.trace(CITY, modules="model.layers.*", intervene=zero_mlp) == (
        nnsight_golden
    )


def test_gradient_of_an_answer(
    nnsight_model: Any, nnsight_capture: Any, nnsight_golden: Any
) -> None:
    paris = nnsight_model.tokenizer(" Paris")["input_ids"][0]

    def answer(model: Any) -> Any:
        return model.lm_head.output[0, -1, paris]

    run = nnsight_capture.trace(CITY, modules="model.layers.*", gradient_of=answer)
    assert [call.path for call in run.calls][30:32] == [
        "gradient.model.layers.29",
        "gradient.model.layers.28",
    ]
    assert run == nnsight_golden


def test_a_users_own_trace(nnsight_model: Any, nnsight_golden: Any) -> None:
    with nnsight_model.trace(CITY):
        hidden = nnsight_model.model.layers[3].output.save()
    assert {"hidden": hidden} == nnsight_golden
