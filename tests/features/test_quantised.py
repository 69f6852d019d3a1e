"""Weights in eight bits by torch's quantisation, in a session fixture of the user."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import diagnose
from pytest_nnsight.models import tiny
from pytest_nnsight.models.identity import identify
from pytest_nnsight.summary.fingerprint import fingerprint_parameters

CITY = "The Eiffel Tower is in the city of"
# torch is moving quantisation to a separate package, torchao.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
    # A value between two of the 256 steps may be rounded either way.
    pytest.mark.nnsight(tolerance=0.01),
]


def quantised(module: torch.nn.Module) -> torch.nn.Module:
    if not hasattr(torch.ao.quantization, "quantize_dynamic"):
        pytest.skip("torch has no quantisation of its own any more")
    eight_bits: torch.nn.Module = torch.ao.quantization.quantize_dynamic(
        copy.deepcopy(module), {torch.nn.Linear}, dtype=torch.qint8
    )
    return eight_bits


@pytest.fixture(scope="session")
def nnsight_model() -> Any:
    module, tokenizer = tiny.build("llama", torch.float32, None)
    return nnsight_api.wrap(quantised(module), tokenizer)


@pytest.mark.feature("placement", "eight bits: torch's dynamic quantisation")
def test_eight_bits(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace(CITY, modules=["model.layers.*", "**.mlp.*", "lm_head"])
    assert run["lm_head"].call.module_class == "Linear"
    assert run == nnsight_golden


@pytest.mark.feature("placement", "eight bits drift from float32 by their rounding")
def test_eight_bits_drift_from_float32(nnsight_capture: Any) -> None:
    module, tokenizer = tiny.build("llama", torch.float32, None)
    model = nnsight_api.wrap(module, tokenizer)
    exact = Capture(model, lambda: identify(model, None)).trace(CITY)
    comparison = compare(exact, nnsight_capture.trace(CITY))
    assert 0.005 < comparison.noise < 0.2


@pytest.mark.feature("placement", "eight bits: a weight that was packed again is named")
def test_a_changed_packed_weight_is_named(nnsight_model: Any, nnsight_capture: Any) -> None:
    module = nnsight_api.torch_module(nnsight_model)
    before, weights = nnsight_capture.trace(CITY), fingerprint_parameters(module)
    changed, tokenizer = tiny.build("llama", torch.float32, None)
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight.mul_(1.1)
    other = nnsight_api.wrap(quantised(changed), tokenizer)
    now = Capture(other, lambda: identify(other, None)).trace(CITY)
    diagnosis = diagnose(
        before, now, compare(before, now), weights, fingerprint_parameters(other._module)
    )
    place = "model.layers.1.mlp.up_proj"
    assert (diagnosis.where, diagnosis.cause) == (place, "weights")
    packed = f"{place}._packed_params._packed_params[0]"
    assert diagnosis.evidence == f"1 of {len(weights)} parameters differ: {packed}"
