"""Operations inside a forward, by names without nnsight's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_nnsight.errors import UsageError

CITY = "The Eiffel Tower is in the city of"
ATTENTION = "model.layers.*.self_attn.source.attention_interface"
DOT_PRODUCT = "torch_nn_functional_scaled_dot_product_attention"
STEPS_IN = "the inside of a called function is seen at the first step of a generation only"


@pytest.mark.feature("source operations", "attention of every layer, between its projections")
def test_attention(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace(CITY, modules="**.o_proj", operations=ATTENTION)
    paths = [call.path for call in run.calls]
    assert paths[:2] == [
        "model.layers.0.self_attn.source.attention_interface",
        "model.layers.0.self_attn.o_proj",
    ]
    assert len(paths) == 60
    assert run == nnsight_golden


@pytest.mark.feature("source operations", "attention weights, which eager attention returns")
@pytest.mark.nnsight(model="tiny:llama", attn="eager")
def test_attention_weights(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace(CITY, modules="**.o_proj", operations=ATTENTION, keep="**.source.*")
    _, weights = run["model.layers.0.self_attn.source.attention_interface"].value
    assert weights.shape == (1, 4, 35, 35)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 35))
    assert run == nnsight_golden


@pytest.mark.feature("source operations", "scaled dot product, inside a called function")
@pytest.mark.nnsight(model="tiny:llama")
def test_scaled_dot_product(nnsight_capture: Any, nnsight_golden: Any) -> None:
    inside = f"{ATTENTION}.source.{DOT_PRODUCT}"
    run = nnsight_capture.trace(CITY, modules="**.o_proj", operations=[ATTENTION, inside])
    assert [call.path.rpartition(".")[2] for call in run.calls[:3]] == [
        DOT_PRODUCT,
        "attention_interface",
        "o_proj",
    ]
    assert run == nnsight_golden


@pytest.mark.feature("source operations", "attention at every step of a generation")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_operations_of_a_generation(nnsight_capture: Any, nnsight_golden: Any) -> None:
    attention = "transformer.h.*.attn.source.attention_interface"
    run = nnsight_capture.generate(
        "Hello", max_new_tokens=3, modules="lm_head", operations=attention
    )
    assert [call.visit for call in run.calls if ".source." in call.path] == [0, 0, 1, 1, 2, 2]
    assert run == nnsight_golden


@pytest.mark.feature("source operations", "inside a called function, at every step of a generation")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_inner_operations_of_a_generation(
    since_nnsight: Any, nnsight_capture: Any, nnsight_golden: Any
) -> None:
    since_nnsight(7, STEPS_IN)
    inside = f"transformer.h.*.attn.source.attention_interface.source.{DOT_PRODUCT}"
    run = nnsight_capture.generate("Hello", max_new_tokens=3, modules="lm_head", operations=inside)
    assert [call.visit for call in run.calls if ".source." in call.path] == [0, 0, 1, 1, 2, 2]
    assert run == nnsight_golden


@pytest.mark.feature("source operations", "a second call of the same function has a number")
@pytest.mark.nnsight(model="tiny:llama")
def test_second_call(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace(
        "Hello", modules="lm_head", operations="model.layers.0.self_attn.source.*transpose*"
    )
    names = [call.path.partition(".source.")[2] for call in run.calls if ".source." in call.path]
    assert names == ["transpose", "transpose.1", "transpose.2"]
    assert run == nnsight_golden


@pytest.mark.feature("source operations", "the start of a drift is an operation")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_drift_that_starts_in_an_operation(nnsight_capture: Any) -> None:
    from pytest_nnsight.compare.comparison import compare
    from pytest_nnsight.diagnose.diagnosis import diagnose

    attention = "transformer.h.*.attn.source.attention_interface"
    module = nnsight_capture.model._module.transformer.h[1].attn
    before = nnsight_capture.trace("Hello", operations=attention)
    scaling = module.scaling
    try:
        module.scaling = scaling * 1.1
        after = nnsight_capture.trace("Hello", operations=attention)
    finally:
        module.scaling = scaling
    diagnosis = diagnose(before, after, compare(before, after))
    assert diagnosis.where == "transformer.h.1.attn.source.attention_interface"


@pytest.mark.feature("source operations", "an unknown name is one line, with the nearest")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_wrong_names(nnsight_capture: Any) -> None:
    for wrong, message in (
        ("transformer.h.*.attn", "names no operation"),
        ("transformer.h.*.attn.source.attention", "nearest: .*attention_interface"),
        ("transformer.h.*.atn.source.attention_interface", "matches no module"),
        ("transformer.h.*.attn.source.hasattr", "did not run"),
    ):
        with pytest.raises(UsageError, match=message):
            nnsight_capture.trace("Hello", operations=wrong)
