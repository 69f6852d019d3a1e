"""``generate``: text, ids, every step, margins, sampling."""

from __future__ import annotations

import struct
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest
import torch
from packaging.version import Version

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.errors import UsageError
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.run import Run

PROMPT = "Once upon a time"
CaptureOf = Callable[..., Capture]


def version_of(package: str) -> tuple[int, ...]:
    return Version(metadata.version(package)).release


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_new_tokens_equal_those_of_transformers(capture_of: CaptureOf, family: str) -> None:
    capture = capture_of(f"tiny:{family}")
    run = capture.generate(PROMPT, max_new_tokens=6)
    tokenizer, module = capture.model.tokenizer, nnsight_api.torch_module(capture.model)
    encoded = tokenizer(PROMPT, return_tensors="pt")
    ids = module.generate(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        max_new_tokens=6,
        do_sample=False,
    )[0]
    start = 1 if family == "t5" else encoded["input_ids"].shape[1]
    assert run.token_ids == ids[start:].tolist()
    assert run.text == tokenizer.decode(ids[start:], skip_special_tokens=True)
    assert run.prompt.token_ids == (tuple(encoded["input_ids"][0].tolist()),)


@pytest.mark.parametrize("start", ["config", "settings", "bos"])
def test_the_decoders_start_token_is_not_among_the_new_tokens(
    capture_of: CaptureOf, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """``generate`` reads its settings first, then the generation config; never config.json."""
    capture = capture_of("tiny:t5")
    module: Any = nnsight_api.torch_module(capture.model)
    settings = {"decoder_start_token_id": 5} if start == "settings" else {}
    monkeypatch.setattr(module.config, "decoder_start_token_id", 7)
    if start == "bos":
        monkeypatch.setattr(module.generation_config, "decoder_start_token_id", None)
        monkeypatch.setattr(module.generation_config, "bos_token_id", 9)
    run = capture.generate(PROMPT, max_new_tokens=4, min_new_tokens=4, **settings)
    first = {"config": 0, "settings": 5, "bos": 9}[start]
    assert run.prompt.tensors["decoder_input_ids"] == ((first,),)
    assert len(run.token_ids) == 4


def test_every_step_of_every_module_is_recorded(gpt2: Capture) -> None:
    run = gpt2.generate(PROMPT, max_new_tokens=4, keep="transformer.h.*")
    visits = [call.visit for call in run.calls if call.path == "transformer.h.1.mlp"]
    assert visits == [0, 1, 2, 3]
    shapes = [run["transformer.h.1", visit].output.shape for visit in visits]
    assert shapes == [(1, len(PROMPT), 64), (1, 1, 64), (1, 1, 64), (1, 1, 64)]


def steps_with_inputs(run: Run, path: str = "transformer.h.1.mlp") -> list[int]:
    return [call.visit for call in run.calls if call.path == path and call.inputs is not None]


def test_inputs_are_recorded_at_the_first_two_steps_unless_asked_for(gpt2: Capture) -> None:
    """These are the step of the prompt, and the first step that reads the key-value cache."""
    settings = {"max_new_tokens": 4, "min_new_tokens": 4}
    assert steps_with_inputs(gpt2.generate(PROMPT, **settings)) == [0, 1]
    assert steps_with_inputs(gpt2.generate(PROMPT, inputs=True, **settings)) == [0, 1, 2, 3]
    assert steps_with_inputs(gpt2.generate(PROMPT, inputs=False, **settings)) == []
    assert steps_with_inputs(gpt2.generate(PROMPT, steps=[0, 3], **settings)) == [0, 3]
    for run in gpt2.generate_each([PROMPT, "Hi"], **settings):
        assert steps_with_inputs(run) == [0, 1]
        assert len([call for call in run.calls if call.path == "lm_head"]) == 4


def test_inputs_that_no_other_module_returned_are_recorded_at_every_step(gpt2: Capture) -> None:
    """The input of the projection after attention shows whether attention itself is wrong."""
    run = gpt2.generate(PROMPT, max_new_tokens=4, min_new_tokens=4)
    assert steps_with_inputs(run, "transformer.h.1.attn.c_proj") == [0, 1, 2, 3]
    full = gpt2.generate(PROMPT, max_new_tokens=4, min_new_tokens=4, inputs=True)
    few, all_of_them = (
        {leaf.summary for call in each.calls for leaf in call.leaves} for each in (run, full)
    )
    assert few == all_of_them


def test_a_golden_with_inputs_at_every_step_matches_a_run_with_fewer(gpt2: Capture) -> None:
    runs = [gpt2.generate(PROMPT, max_new_tokens=4, inputs=inputs) for inputs in (True, None)]
    for golden, received in (runs, runs[::-1]):
        comparison = compare(decode(encode(golden), "golden"), received)
        assert comparison.drifts == ()
        assert (comparison.bits.count, comparison.bits.is_expected) == (0, True)


def test_margins_are_the_two_highest_logits_apart(gpt2: Capture) -> None:
    run = gpt2.generate(PROMPT, max_new_tokens=3, keep="lm_head")
    assert run.generated is not None
    margins = struct.unpack("<3f", run.generated.margins[0])
    for step, margin in enumerate(margins):
        first, second = run["lm_head", step].output[0, -1].topk(2).values.tolist()
        assert margin == pytest.approx(first - second, rel=1e-6)


def test_a_batch_gives_lists(gpt2: Capture) -> None:
    run = gpt2.generate([PROMPT, "Hi"], max_new_tokens=3)
    assert [len(row) for row in run.token_ids] == [3, 3]
    assert isinstance(run.text, list)


@pytest.mark.xfail(
    version_of("transformers") < (5,) and version_of("nnsight") >= (0, 8),
    reason="nnsight 0.8 with transformers 4 passes a padded batch the same positions every step",
)
def test_a_padded_prompt_generates_the_same_as_alone(gpt2: Capture) -> None:
    batch = gpt2.generate([PROMPT, "Hi"], max_new_tokens=3)
    alone = gpt2.generate("Hi", max_new_tokens=3)
    assert batch.token_ids[1] == alone.token_ids


def test_generation_ends_at_the_end_token(gpt2: Capture) -> None:
    first = gpt2.generate(PROMPT, max_new_tokens=1).token_ids[0]
    run = gpt2.generate(PROMPT, max_new_tokens=5, eos_token_id=first)
    assert run.token_ids == [first]


def test_sampling_is_seeded_and_the_seed_is_in_the_golden(gpt2: Capture) -> None:
    before = torch.random.get_rng_state()
    sampled = [
        gpt2.generate(PROMPT, max_new_tokens=8, do_sample=True, temperature=2.0, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert sampled[0].token_ids == sampled[1].token_ids != sampled[2].token_ids
    assert torch.equal(before, torch.random.get_rng_state())
    golden = decode(encode(sampled[0]), "golden")
    assert golden.prompt.generation["seed"] == 1
    assert golden.prompt.generation["temperature"] == 2.0
    assert "seed" not in gpt2.generate(PROMPT, max_new_tokens=1).prompt.generation


def test_a_run_survives_its_golden(gpt2: Capture) -> None:
    run = gpt2.generate(PROMPT, max_new_tokens=3)
    golden = decode(encode(run), "golden")
    assert encode(golden) == encode(run)
    assert compare(golden, run).drifts == ()
    assert golden.text == run.text


def test_an_encoder_cannot_generate(capture_of: CaptureOf) -> None:
    bert = capture_of("tiny:bert")
    assert not bert.can_generate
    with pytest.raises(UsageError, match="BertForMaskedLM cannot generate; use nnsight"):
        bert.generate(PROMPT)


def test_a_chat(gpt2: Capture) -> None:
    run = gpt2.generate([{"role": "user", "content": "Hi"}], max_new_tokens=2)
    assert len(run.token_ids) == 2
    assert "assistant" not in run.text
