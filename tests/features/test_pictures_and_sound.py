"""Models that take pictures or sound, with or without text; the prompt is a dict of tensors."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import diagnose
from pytest_nnsight.errors import UsageError
from pytest_nnsight.models.random_weights import uniform

TEXT = [70, 111, 114, 37, 103]


def numbers(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(uniform(name, math.prod(shape))).reshape(shape)


PICTURE = numbers("picture", 1, 3, 32, 32)
SOUND = numbers("sound", 1, 16, 64)
DESCRIBE = {"input_ids": [[4] * 16 + TEXT], "attention_mask": [[1] * 21], "pixel_values": PICTURE}
PROMPTS = {
    "tiny:vit": {"pixel_values": PICTURE},
    "tiny:llava": DESCRIBE,
    "tiny:whisper": {"input_features": SOUND},
}


@pytest.mark.nnsight(model="tiny:vit")
@pytest.mark.feature("models", "vision: a batch of pictures")
def test_vision(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace({"pixel_values": numbers("pictures", 2, 3, 32, 32)})
    assert len(run.calls) == 36
    assert run.prompt.digests["pixel_values"].startswith("float32 [2, 3, 32, 32] ")
    assert run == nnsight_golden


@pytest.mark.nnsight(model="tiny:llava")
@pytest.mark.feature("models", "vision and language: a picture in a prompt, traced and generating")
def test_vision_and_language(nnsight_capture: Any, nnsight_golden: Any) -> None:
    modules = ["*.*", "**.vision_tower.encoder.layers.*", "**.language_model.layers.*", "lm_head"]
    run = nnsight_capture.trace(DESCRIBE, modules=modules)
    assert run.prompt.token_ids == (tuple([4] * 16 + TEXT),)
    assert run == nnsight_golden(name="trace")
    run = nnsight_capture.generate(DESCRIBE, max_new_tokens=3, modules="model.*", inputs=False)
    visits = Counter(call.path for call in run.calls)
    assert (visits["model.vision_tower"], visits["model.language_model"]) == (1, 3)
    assert set(run.prompt.digests) == {"pixel_values"}
    assert run == nnsight_golden(name="generate")


@pytest.mark.nnsight(model="tiny:llava")
@pytest.mark.feature("models", "vision and language: text alone")
def test_vision_and_language_without_a_picture(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace("No picture here", modules=["model.*", "lm_head"])
    assert "model.vision_tower" not in run.paths
    assert run == nnsight_golden


@pytest.mark.nnsight(model="tiny:whisper")
@pytest.mark.feature("models", "sound: an encoder-decoder, traced and generating")
def test_sound(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace({"input_features": SOUND}, modules=["model.*", "**.layers.*"])
    assert run.prompt.tensors["decoder_input_ids"] == ((1,),)
    assert run == nnsight_golden(name="trace")
    run = nnsight_capture.generate(
        {"input_features": SOUND}, max_new_tokens=4, modules=["model.*", "proj_out"], inputs=False
    )
    assert len(run.token_ids) == 4
    visits = Counter(call.path for call in run.calls)
    assert (visits["model.encoder"], visits["model.decoder"]) == (1, 4)
    assert run == nnsight_golden(name="generate")


def compare_with_changed_prompt(
    capture: Any, prompt: dict[str, Any], modules: str, by: float
) -> Any:
    """Change a picture or sound slightly; return the comparison and the diagnosis."""
    name = next(key for key in prompt if key in ("pixel_values", "input_features"))
    before = capture.trace(prompt, modules=modules)
    now = capture.trace({**prompt, name: prompt[name] * (1 + by)}, modules=modules)
    comparison = compare(before, now)
    return comparison, comparison.matches or diagnose(before, now, comparison)


@pytest.mark.nnsight(model="tiny:vit")
@pytest.mark.feature("models", "another picture is named as the cause")
def test_a_changed_picture_is_the_cause(nnsight_capture: Any) -> None:
    _, diagnosis = compare_with_changed_prompt(nnsight_capture, PROMPTS["tiny:vit"], "**", 0.01)
    assert (diagnosis.cause, diagnosis.evidence) == (
        "prompt",
        "the model is given other pixel_values",
    )
    assert diagnosis.is_certain
    _, diagnosis = compare_with_changed_prompt(
        nnsight_capture, PROMPTS["tiny:vit"], "vit.layers.*", 0.01
    )
    assert (diagnosis.cause, diagnosis.is_certain) == (
        "prompt",
        False,
    )  # nothing before was captured


@pytest.mark.nnsight(model="tiny:whisper")
@pytest.mark.feature("models", "another sound is named as the cause")
def test_a_changed_sound_is_the_cause(nnsight_capture: Any) -> None:
    _, diagnosis = compare_with_changed_prompt(nnsight_capture, PROMPTS["tiny:whisper"], "**", 0.01)
    assert (diagnosis.cause, diagnosis.evidence) == (
        "prompt",
        "the model is given other input_features",
    )


@pytest.mark.nnsight(model="tiny:llava")
@pytest.mark.feature("models", "a picture that differs within the tolerance matches")
def test_a_picture_within_tolerance_matches(nnsight_capture: Any) -> None:
    """A picture resized by another release has other bits."""
    comparison, _ = compare_with_changed_prompt(nnsight_capture, DESCRIBE, "**", 1e-6)
    assert comparison.matches
    assert [(drift.label, drift.note) for drift in comparison.drifts] == [("pixel_values", True)]
    _, diagnosis = compare_with_changed_prompt(nnsight_capture, DESCRIBE, "**", 0.01)
    assert diagnosis.cause == "prompt"


@pytest.mark.nnsight(model="tiny:whisper", dtype="bfloat16")
@pytest.mark.feature("models", "sound in a half type: the input is converted")
def test_inputs_are_converted_to_the_dtype_of_the_weights(nnsight_capture: Any) -> None:
    run = nnsight_capture.trace({"input_features": SOUND.double()}, modules="model")
    assert run.prompt.digests["input_features"].startswith("bfloat16 [1, 16, 64] ")


@pytest.mark.nnsight(model="tiny:vit")
@pytest.mark.feature("models", "vision: an input that the model does not take is one line")
def test_inputs_that_the_model_does_not_take_are_refused(nnsight_capture: Any) -> None:
    takes = "ViTForImageClassification takes pixel_values, not text; give a dict of tensors"
    for prompt in ("a picture of a bird", [5, 6], [{"role": "user", "content": "hi"}]):
        with pytest.raises(UsageError) as error:
            nnsight_capture.trace(prompt)
        assert str(error.value) == takes
    with pytest.raises(UsageError, match=r"^a dict of tensors needs pixel_values, got image$"):
        nnsight_capture.trace({"image": PICTURE})
    with pytest.raises(UsageError, match=r"^prompt is empty; pixel_values has no element$"):
        nnsight_capture.trace({"pixel_values": PICTURE[:0]})
