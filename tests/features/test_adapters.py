"""LoRA adapters of peft, in a session fixture of the user."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import diagnose
from pytest_nnsight.models import tiny
from pytest_nnsight.models.random_weights import uniform
from pytest_nnsight.nnsight_api.version import import_nnsight
from pytest_nnsight.summary.fingerprint import fingerprint_parameters

CITY = "The Eiffel Tower is in the city of"
# peft 0.21 uses a name that transformers 5.23 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is dep:FutureWarning")
QUERY = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="session")
def nnsight_model() -> Any:
    """Return a Llama with an adapter that is not zero, unlike a new adapter of peft."""
    peft = pytest.importorskip("peft", reason="needs the package peft (it is in the extra dev)")
    nnsight = import_nnsight()
    llama, tokenizer = tiny.build("llama", torch.float32, None)
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(llama, lora).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_" in name:
                numbers = uniform(name, parameter.numel()).reshape(tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(numbers) / 8)
    if hasattr(nnsight, "TransformersModel"):
        return nnsight.TransformersModel(adapted, tokenizer=tokenizer, task="text-generation")
    tokenizer.padding_side = "left"
    return nnsight.LanguageModel(adapted, tokenizer=tokenizer)


@pytest.mark.feature("models", "adapter: LoRA, traced, every module of it")
def test_adapter(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace(CITY, modules=f"{QUERY}.**")
    inside = ("base_layer", "lora_dropout.default", "lora_A.default", "lora_B.default")
    assert run.paths == [*(f"{QUERY}.{name}" for name in inside), QUERY]
    assert run == nnsight_golden


@pytest.mark.feature("models", "adapter: LoRA, generating")
def test_adapter_generates(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.generate(CITY, max_new_tokens=4, modules="**.lora_B.*", inputs=False)
    assert set(Counter(call.path for call in run.calls).values()) == {len(run.token_ids)}
    assert len(run.paths) == 4
    assert run == nnsight_golden


@pytest.mark.feature("models", "adapter: without it the model equals its base model")
def test_without_the_adapter_the_model_equals_its_base_model(
    nnsight_model: Any, nnsight_capture: Any
) -> None:
    base, tokenizer = tiny.build("llama", torch.float32, None)
    ids = tokenizer(CITY, return_tensors="pt")
    with torch.no_grad():
        logits = base(**ids).logits
    with nnsight_model._module.disable_adapter():
        off = nnsight_capture.trace(CITY, keep="**.lm_head")
    on = nnsight_capture.trace(CITY, keep="**.lm_head")
    head = "base_model.model.lm_head"
    assert torch.equal(off[head].output, logits)
    assert not torch.allclose(on[head].output, logits, rtol=0.01)


@pytest.mark.feature("models", "adapter: a changed weight and another scale are named")
def test_a_change_of_the_adapter_is_named(nnsight_model: Any, nnsight_capture: Any) -> None:
    module = nnsight_model._module
    before, weights = nnsight_capture.trace(CITY), fingerprint_parameters(module)
    name = f"{QUERY}.lora_B.default.weight"
    parameter = module.get_parameter(name)
    saved = parameter.detach().clone()
    with torch.no_grad():
        parameter.mul_(1.1)
        now, changed = nnsight_capture.trace(CITY), fingerprint_parameters(module)
        parameter.copy_(saved)
    diagnosis = diagnose(before, now, compare(before, now), weights, changed)
    assert (diagnosis.where, diagnosis.cause) == (name.removesuffix(".weight"), "weights")
    assert diagnosis.evidence == f"1 of {len(weights)} parameters differ: {name}"

    lora, layer = module.peft_config["default"], module.get_submodule(QUERY)
    lora.lora_alpha, layer.scaling["default"] = 16, 4.0
    now = nnsight_capture.trace(CITY)
    lora.lora_alpha, layer.scaling["default"] = 8, 2.0
    diagnosis = diagnose(before, now, compare(before, now), weights, weights)
    assert (diagnosis.where, diagnosis.cause) == (QUERY, "config")
    assert diagnosis.evidence == "adapters.default.lora_alpha 8 -> 16"
