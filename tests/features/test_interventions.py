"""Goldens of interventions: on outputs and inputs, at steps, and between prompts."""

from __future__ import annotations

from typing import Any

import pytest

CITY = "The Eiffel Tower is in the city of"
ROME = "The Colosseum is in the city of"
LAYERS = "model.layers.*"


@pytest.mark.feature("interventions", "a whole output in place")
def test_output_in_place(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def zero(model: Any) -> None:
        model.model.layers[5].mlp.output[:] = 0

    assert nnsight_capture.trace(CITY, modules=LAYERS, intervene=zero) == nnsight_golden


@pytest.mark.feature("interventions", "a whole output by assignment")
def test_output_by_assignment(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def scale(model: Any) -> None:
        model.model.layers[5].mlp.output = model.model.layers[5].mlp.output * 2

    assert nnsight_capture.trace(CITY, modules=LAYERS, intervene=scale) == nnsight_golden


@pytest.mark.feature("interventions", "the last token of an element of a tuple, in place")
def test_element_in_place(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def blind(model: Any) -> None:
        model.model.layers[5].self_attn.output[0][:, -1] = 0

    assert nnsight_capture.trace(CITY, modules=LAYERS, intervene=blind) == nnsight_golden


@pytest.mark.feature("interventions", "a tuple by assignment")
def test_tuple_by_assignment(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def halve(model: Any) -> None:
        attention = model.model.layers[5].self_attn
        attention.output = (attention.output[0] / 2, *attention.output[1:])

    assert nnsight_capture.trace(CITY, modules=LAYERS, intervene=halve) == nnsight_golden


@pytest.mark.feature("interventions", "an input, in place and by assignment")
@pytest.mark.parametrize("how", ["in place", "assigned"])
def test_input(nnsight_capture: Any, nnsight_golden: Any, how: str) -> None:
    def change(model: Any) -> None:
        if how == "in place":
            model.model.layers[5].mlp.input[:, 1] = 0
        else:
            model.model.layers[5].mlp.input = model.model.layers[5].mlp.input * 0.5

    assert nnsight_capture.trace(CITY, modules=LAYERS, intervene=change) == nnsight_golden


@pytest.mark.feature("interventions", "steering at chosen steps, by list and by slice")
@pytest.mark.parametrize("at", [[2, 3], slice(2, 4)], ids=["list", "slice"])
def test_steering_at_steps(nnsight_capture: Any, nnsight_golden: Any, at: Any) -> None:
    seen: list[tuple[int, ...]] = []

    def steer(model: Any) -> None:
        stream = model.model.layers[12].output
        seen.append(tuple(stream.shape))
        stream[:, :, 100:140] += 40.0

    run = nnsight_capture.generate(
        CITY, max_new_tokens=6, modules=LAYERS, steps=[1, 2], intervene=steer, intervene_at=at
    )
    assert seen == [(1, 1, 576)] * 2
    assert run.prompt.generation["intervene_at"] == ("[2, 3]" if isinstance(at, list) else "2:4")
    plain = nnsight_capture.generate(CITY, max_new_tokens=6, modules="lm_head")
    assert run.token_ids[:2] == plain.token_ids[:2]
    assert run.token_ids[2:] != plain.token_ids[2:]
    assert run == nnsight_golden


@pytest.mark.filterwarnings("ignore:.*was (never reached|not provided)")  # nnsight's own, by design
@pytest.mark.feature("interventions", "a user's iteration over all steps")
def test_iteration_over_steps(
    since_nnsight: Any, nnsight_capture: Any, nnsight_golden: Any
) -> None:
    since_nnsight(6, "`for step in tracer.iter[:]` is `with tracer.iter[:] as step`")

    def steer(model: Any, tracer: Any) -> None:
        for _ in tracer.iter[:]:
            model.model.layers[12].output[:, :, 100:140] += 40.0

    run = nnsight_capture.generate(
        CITY, max_new_tokens=4, modules="model.layers.12", intervene=steer
    )
    assert [call.visit for call in run.calls] == [0, 1, 2, 3]
    assert run == nnsight_golden


@pytest.mark.feature("interventions", "activation patching between two prompts, with a barrier")
def test_patching(nnsight_model: Any, nnsight_capture: Any, nnsight_golden: Any) -> None:
    stream: dict[str, Any] = {}

    def read(model: Any, tracer: Any, barrier: Any) -> None:
        stream["last token"] = model.model.layers[28].output[:, -1]
        barrier()

    def write(model: Any, tracer: Any, barrier: Any) -> None:
        barrier()
        model.model.layers[28].output[:, -1] = stream["last token"]

    clean, patched = nnsight_capture.trace_each(
        [CITY, ROME], modules=[LAYERS, "lm_head"], keep="lm_head", intervene=[read, write]
    )
    paris, rome = (
        nnsight_model.tokenizer(f" {city}")["input_ids"][0] for city in ("Paris", "Rome")
    )
    answers = [run["lm_head"].output[0, -1] for run in (clean, patched)]
    before = nnsight_capture.trace(ROME, modules="lm_head", keep=True)["lm_head"].output[0, -1]
    assert [int(logits.argmax()) for logits in answers] == [paris, paris]
    assert before[rome] > before[paris]
    assert clean == nnsight_golden(name="clean")
    assert patched == nnsight_golden


@pytest.mark.nnsight(model="tiny:gpt2")
@pytest.mark.feature("interventions", "the intervention is part of the golden")
def test_record_of_an_intervention(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def zero(model: Any) -> None:
        model.transformer.h[1].mlp.output[:] = 0

    run = nnsight_capture.trace(CITY, modules="transformer.h.*", intervene=zero)
    assert run.prompt.intervention == "zero"
    assert run.prompt.intervention_code
    assert run == nnsight_golden
