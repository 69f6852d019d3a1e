"""Padded batches and masks of another form raise no alarm; another meaning does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from builders import find
from transformers import masking_utils

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.capture.remote import Remote
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.positions import RealTokens
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.spec import parse_spec
from pytest_nnsight.models.tiny import byte_tokenizer, family_config
from pytest_nnsight.report.failure import _difference
from pytest_nnsight.run import Call, Run

SIZES = {"vocab_size": 264, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "sliding_window": 8,
    },
    "qwen3": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
    },
    "bart": {
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "max_position_embeddings": 128,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
    },
}
SEQ2SEQ = ("t5", "bart")
FAMILIES = ("llama", "gpt2", "gemma3_text", "qwen3", "bert", *SEQ2SEQ)


@cache
def capture_of(family: str, attention: str) -> Capture:
    """Return the capture of a small random model; it has equal weights in every attention."""
    if family in CONFIGS:
        config = transformers.CONFIG_MAPPING[family](**CONFIGS[family], **SIZES)
        name = "AutoModelForSeq2SeqLM" if family in SEQ2SEQ else "AutoModelForCausalLM"
    else:
        config, name = family_config(family)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, name).from_config(config, attn_implementation=attention)
    spec, wrapped = (
        parse_spec("tiny:gpt2"),
        nnsight_api.wrap(model.eval(), byte_tokenizer(False)),
    )
    return Capture(wrapped, lambda: identify(wrapped, spec))


def pad(rows: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids, mask = torch.zeros(2, len(rows), width).long()
    for index, row in enumerate(rows):
        real = slice(width - len(row), width) if side == "left" else slice(len(row))
        ids[index, real], mask[index, real] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def batch(family: str, side: str, decoder: int = 4) -> dict[str, torch.Tensor]:
    """Return two prompts of 20 and 12 tokens; a decoder has two of its own."""
    prompt = pad([[*range(10, 30)], [*range(40, 52)]], side)
    if family in SEQ2SEQ:
        rows = [[2, *range(60, 59 + decoder)], [2, 73]]
        prompt |= {f"decoder_{name}": value for name, value in pad(rows, "right").items()}
    return prompt


def golden(run: Run) -> Run:
    """Return a run as its golden has it."""
    return decode(encode(run), "golden")


def notes(before: Run, now: Run, *kinds: str) -> list[str]:
    """Compare two runs that match; return the text of their notes, but for other containers."""
    comparison = compare(before, now)
    assert [_difference(before, drift) for drift in comparison.failures] == []
    kinds = kinds or ("mask", "padding")
    return [_difference(before, d) for d in comparison.drifts if d.note and d.kind in kinds]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_not_compared_under_another_attention(family: str, side: str) -> None:
    prompt = batch(family, side)
    before = golden(capture_of(family, "sdpa").trace(prompt))
    found = notes(before, capture_of(family, "eager").trace(prompt))
    assert found[0].endswith("mask in another form (bool -> float32), compared by meaning")
    if side == "left" and family in ("llama", "gpt2", "gemma3_text", "qwen3"):
        assert found[1].startswith("padded positions differ, not compared (largest rel ")
    assert len(found) <= 2


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_padding_of_an_encoder_as_long_as_its_decoder_is_not_compared(family: str) -> None:
    prompt = batch(family, "left", decoder=20)
    before = golden(capture_of(family, "sdpa").trace(prompt))
    assert len(notes(before, capture_of(family, "eager").trace(prompt))) >= 1


@pytest.mark.filterwarnings("ignore")  # of torch's compiler
@pytest.mark.parametrize(
    "family",
    ["llama", *(pytest.param(each, marks=pytest.mark.long) for each in ("gemma3_text", "bert"))],
)
@pytest.mark.parametrize("side", ["single", "left", "right"])
def test_a_mask_of_flex_attention_has_the_same_meaning(family: str, side: str) -> None:
    prompt = batch(family, side)
    if side == "single":
        prompt = {name: value[:1] for name, value in prompt.items()}
    before = golden(capture_of(family, "sdpa").trace(prompt))
    received = capture_of(family, "flex_attention").trace(prompt)
    attention = next(call for call in received.calls if "BlockMask" in (call.inputs or ""))
    assert any("mask" in leaf.at and leaf.summary.rows for leaf in attention.leaves)
    notes(before, received)
    notes(received, before)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_a_mask_of_flex_attention_is_split_among_the_prompts_of_a_batch() -> None:
    capture = capture_of("llama", "flex_attention")
    alone = [capture.trace(text) for text in ("Hello there", "Hi")]
    together = capture.trace_each(["Hello there", "Hi"])
    for before, now in zip(alone, together, strict=True):
        assert any("BlockMask" in (call.inputs or "") for call in before.calls)
        notes(golden(before), now)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_no_mask_and_a_causal_mask_raise_no_alarm(family: str) -> None:
    """Gemma's sliding window has a mask under both."""
    prompt = {name: value[:1] for name, value in batch(family, "left").items()}
    before, now = (capture_of(family, name).trace(prompt) for name in ("sdpa", "eager"))
    for found in (notes(golden(before), now), notes(golden(now), before)):
        assert len(found) == (family == "gemma3_text")


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_a_mask_with_the_meaning_of_none_is_not_the_cause(family: str) -> None:
    """Another layer is at fault, and eager attention passes a mask where sdpa needs none."""
    prompt = {name: value[:1] for name, value in batch(family, "left").items()}
    before, now = (capture_of(family, name).trace(prompt) for name in ("sdpa", "eager"))
    real_tokens = RealTokens(before)
    known = [
        real_tokens.is_default(position, leaf)
        for position, call in enumerate(before.calls)
        for leaf in now[call.path].call.leaves
        if "mask" in leaf.at and len(leaf.summary.shape) == 4
    ]
    assert known == [True] * len(known)
    assert bool(known) == (family != "bert")


def test_a_fault_of_attention_is_not_blamed_on_a_mask_of_the_same_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """sdpa is given no mask, eager attention a causal one."""
    from transformers.models.llama import modeling_llama

    original = modeling_llama.eager_attention_forward

    def double(*args: Any, **keywords: Any) -> Any:
        value, weights = original(*args, **keywords)
        return 2 * value, weights

    prompt = {name: value[:1] for name, value in batch("llama", "left").items()}
    before = golden(capture_of("llama", "sdpa").trace(prompt))
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", double)
    found = find(before, capture_of("llama", "eager").trace(prompt))
    assert (found.where, found.cause) == ("model.layers.0.self_attn", "code or numerics")


def test_a_remote_run_has_the_same_rows() -> None:
    prompt, capture = batch("llama", "left"), capture_of("llama", "eager")
    remote = replace(capture, remote=Remote("local", nullcontext))
    before, now = capture.trace(prompt), remote.trace(prompt)
    assert [*map(rows_of, before.calls)] == [*map(rows_of, now.calls)]
    assert sum(map(bool, map(rows_of, now.calls))) > 4


def rows_of(call: Call) -> list[bytes]:
    return [leaf.summary.rows for leaf in call.leaves if leaf.summary.rows]


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart"])
def test_prompts_that_end_at_different_steps_raise_no_alarm(family: str) -> None:
    prompt = {n: t for n, t in batch(family, "left").items() if not n.startswith("decoder")}
    sdpa, eager = capture_of(family, "sdpa"), capture_of(family, "eager")
    settings = {"max_new_tokens": 6, "pad_token_id": 0, "do_sample": True, "seed": 0}
    tokens = sdpa.generate(prompt, eos_token_id=263, **settings).token_ids
    settings["eos_token_id"] = next(t for t in tokens[1][:5] if t not in tokens[0])
    before = golden(sdpa.generate(prompt, **settings))
    assert len({len(ids) for ids in before.generated.token_ids}) == 2
    notes(before, eager.generate(prompt, **settings))


def test_values_after_the_end_of_a_prompt_are_not_compared() -> None:
    """A prompt that has ended goes on with padding, whose id is a setting of the test."""
    prompt, capture = batch("llama", "left"), capture_of("llama", "sdpa")
    tokens = capture.generate(prompt, max_new_tokens=4).token_ids
    ends = next(token for token in tokens[1] if token not in tokens[0])
    runs = [
        capture.generate(prompt, max_new_tokens=4, eos_token_id=ends, pad_token_id=pad_id)
        for pad_id in (0, 9)
    ]
    assert len({len(ids) for ids in runs[0].token_ids}) == 2
    comparison = compare(golden(runs[0]), runs[1])
    assert {drift.kind for drift in comparison.failures} == {"settings"}
    assert comparison.bits.count == 0


def test_another_token_in_the_padding_is_a_note() -> None:
    prompt, capture = batch("llama", "left"), capture_of("llama", "sdpa")
    before = golden(capture.trace(prompt))
    ids = prompt["input_ids"].masked_fill(prompt["attention_mask"] == 0, 9)
    received = capture.trace(prompt | {"input_ids": ids})
    (found,) = notes(before, received)
    assert found.startswith("padded positions differ, not compared (largest rel ")
    assert compare(before, received).bits.count == 0


def test_positions_of_the_padding_are_a_note() -> None:
    prompt, capture = batch("llama", "left"), capture_of("llama", "sdpa")
    positions = (prompt["attention_mask"].cumsum(1) - 1).clamp(min=0)
    before = golden(capture.trace(prompt | {"position_ids": positions}))
    other = positions.masked_fill(prompt["attention_mask"] == 0, 1)
    found = notes(before, capture.trace(prompt | {"position_ids": other}), "tensors")
    assert found == [
        "position_ids: tensors 20 values of prompt 1, at 0: 0 -> 20 values of prompt 1, at 0: 1"
    ]


@pytest.fixture
def with_masks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the masks of Llama by another function of the original mask."""
    from transformers.models.llama import modeling_llama

    def make(change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        def create(*args: Any, **keywords: Any) -> Any:
            return change(masking_utils.create_causal_mask(*args, **keywords))

        monkeypatch.setattr(modeling_llama, "create_causal_mask", create)

    return make


def hide(shown: torch.Tensor, row: int, query: int, key: int) -> torch.Tensor:
    """Change one key of one query."""
    shown = shown.clone()
    shown[row, :, query, key] ^= True
    return shown


@pytest.mark.parametrize("query", [8, 9, 19])
def test_a_mask_that_is_wrong_at_the_first_real_token_is_found(
    with_masks: Callable[..., None], query: int
) -> None:
    """The second prompt begins at token 8."""
    prompt, capture = batch("llama", "left"), capture_of("llama", "sdpa")
    before = golden(capture.trace(prompt))
    with_masks(functools.partial(hide, row=1, query=query, key=8 if query > 8 else 7))
    received = capture.trace(prompt)
    found = find(before, received)
    assert (found.where, found.cause, found.is_certain) == ("model", "mask", True)
    assert found.evidence == "model.layers.0 is given another attention_mask"
    assert found.start.label == "model.layers.0 in.attention_mask"
    assert found.start.distance.token == 20 + query


def test_a_mask_that_is_wrong_at_a_padded_query_is_a_note(with_masks: Callable[..., None]) -> None:
    prompt, capture = batch("llama", "left"), capture_of("llama", "sdpa")
    before = golden(capture.trace(prompt))
    with_masks(functools.partial(hide, row=1, query=2, key=12))
    assert [text[:24] for text in notes(before, capture.trace(prompt))] == [
        "padded positions differ,"
    ]


@pytest.mark.parametrize("lowest", [-torch.inf, torch.finfo(torch.float32).min])
def test_masks_of_floats_and_of_booleans_mean_the_same(
    with_masks: Callable[..., None], lowest: float
) -> None:
    prompt, capture = batch("llama", "right"), capture_of("llama", "sdpa")
    before = golden(capture.trace(prompt))
    with_masks(lambda shown: torch.zeros(shown.shape).masked_fill(~shown, lowest))
    (found,) = notes(before, capture.trace(prompt))
    assert found.endswith("mask in another form (bool -> float32), compared by meaning")


def test_a_mask_that_only_dims_is_another_mask(with_masks: Callable[..., None]) -> None:
    prompt, capture = batch("llama", "right"), capture_of("llama", "sdpa")
    before = golden(capture.trace(prompt))
    with_masks(lambda shown: torch.zeros(shown.shape).masked_fill(~shown, -8.0))
    assert find(before, capture.trace(prompt)).cause == "mask"


def test_a_golden_without_rows_knows_masks_of_another_attention() -> None:
    """Goldens of older releases have no rows: there a mask may change its dtype."""
    prompt = batch("llama", "right")
    before = capture_of("llama", "sdpa").trace(prompt)
    old = golden(before)
    calls = [
        call._replace(
            leaves=tuple(x._replace(summary=x.summary._replace(rows=b"")) for x in call.leaves)
        )
        for call in old.calls
    ]
    old = Run(old.kind, old.model, old.environment, old.prompt, None, tuple(calls))
    (found,) = notes(old, capture_of("llama", "eager").trace(prompt), "mask")
    assert found.endswith("mask in another form (bool -> float32), compared by meaning")
