"""Built-in models have the same bits everywhere, and every weight affects the logits."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch

from pytest_nnsight.models.architectures import IMAGE_TOKEN, VOCABULARY
from pytest_nnsight.models.random_weights import published, uniform
from pytest_nnsight.models.spec import BUILT_INS
from pytest_nnsight.models.tiny import build, byte_tokenizer
from pytest_nnsight.summary.fingerprint import digest, fingerprint_parameters, weights_fingerprint

FINGERPRINTS = {
    "gpt2": "30806b86e2769f7e",
    "llama": "998477164ebafb4b",
    "bert": "4e8cf659115b9c49",
    "t5": "1e63cfd82e52c046",
    "mixtral": "1d3ab5c234ace8a6",
    "mamba": "7eeb65a7be833a01",
    "vit": "4d27dbe76bad86f7",
    "llava": "ae0947ca80811a55",
    "whisper": "50e9333730a49e83",
}
"""Of the weights under their published names; transformers 5 renames and merges some."""
WITHOUT_EFFECT = ("key.bias", "k_proj.bias", "vision_model.post_layernorm")
"""Softmax ignores a bias of all keys; the last norm is only used for a pooled image."""
IDS = torch.tensor([[5, 70, 120, 33, 200, 90, 90, 12, 45, 160]])
PICTURE = torch.from_numpy(uniform("picture", 3 * 32 * 32)).reshape(1, 3, 32, 32)
SOUND = torch.from_numpy(uniform("sound", 16 * 64)).reshape(1, 16, 64)
INPUTS = {
    "t5": {"input_ids": IDS, "decoder_input_ids": IDS[:, :6]},
    "vit": {"pixel_values": PICTURE},
    "llava": {
        "input_ids": torch.cat([torch.full((1, 16), IMAGE_TOKEN), IDS], dim=1),
        "pixel_values": PICTURE,
    },
    "whisper": {"input_features": SOUND, "decoder_input_ids": IDS[:, :6]},
}


@lru_cache
def model_of(family: str) -> torch.nn.Module:
    return build(family, torch.float32, None)[0]


@torch.no_grad()
def logits_of(family: str) -> torch.Tensor:
    logits: torch.Tensor = model_of(family)(**INPUTS.get(family, {"input_ids": IDS})).logits
    return logits


def test_every_built_in_has_a_family() -> None:
    assert [f"tiny:{family}" for family in FINGERPRINTS] == list(BUILT_INS)


@pytest.mark.parametrize("family", FINGERPRINTS)
def test_weights_are_the_same_bits_on_every_machine(family: str) -> None:
    parts = {name: digest(part) for name, part in published(model_of(family))}
    assert weights_fingerprint(parts) == FINGERPRINTS[family]


def test_each_expert_has_the_weights_of_a_published_checkpoint() -> None:
    """transformers 5 has one parameter for all experts, transformers 4 one for each."""
    parts = dict(published(model_of("mixtral")))
    experts = "model.layers.1.block_sparse_moe.experts"
    names = [f"{experts}.{index}.w{part}.weight" for index in range(4) for part in (1, 2, 3)]
    assert sorted(name for name in parts if name.startswith(experts)) == names
    for name in names:
        assert parts[name].flatten().tolist() == (0.25 * uniform(name, 64 * 64)).tolist()


def test_first_numbers_of_a_name_are_pinned() -> None:
    assert (uniform("name", 3) * 2**23).tolist() == [-3316301, -1024200, 3009935]


def test_numbers_depend_on_the_name_alone() -> None:
    assert uniform("a", 8).tolist() == uniform("a", 16)[:8].tolist() != uniform("b", 8).tolist()
    assert -1 <= uniform("a", 10_000).min() < -0.99
    assert 0.99 < uniform("a", 10_000).max() < 1


@pytest.mark.parametrize("family", FINGERPRINTS)
def test_weights_are_under_one_megabyte(family: str) -> None:
    model = model_of(family)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert sum(parameter.nbytes for parameter in model.parameters()) < 1_000_000
    assert not model.training


@pytest.mark.parametrize("family", FINGERPRINTS)
def test_every_weight_reaches_the_logits(family: str) -> None:
    """One percent of one parameter changes the logits by at least three times the tolerance."""
    before = logits_of(family)
    effect = {}
    with torch.no_grad():
        for name, parameter in published(model_of(family)):
            saved = parameter.clone()
            parameter.mul_(1.01)
            effect[name] = float((logits_of(family) - before).norm() / before.norm())
            parameter.copy_(saved)
    unseen = [name for name, size in effect.items() if size < 3e-5]
    assert [name for name in unseen if not any(part in name for part in WITHOUT_EFFECT)] == []
    assert torch.equal(logits_of(family), before)


@pytest.mark.parametrize("family", FINGERPRINTS)
def test_one_changed_weight_changes_one_fingerprint(family: str) -> None:
    model = build(family, torch.float32, None)[0]
    before = fingerprint_parameters(model)
    name, parameter = list(model.named_parameters())[-1]
    with torch.no_grad():
        parameter.view(-1)[-1] += 1e-6
    after = fingerprint_parameters(model)
    assert [key for key in before if before[key] != after[key]] == [name]
    assert weights_fingerprint(before) != weights_fingerprint(after)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_as_asked(dtype: torch.dtype) -> None:
    model, _ = build("llama", dtype, "eager")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert model.config._attn_implementation == "eager"


TEXTS = ["Hello wörld\n", "  a  b", "漢字 🙂\t", "", "".join(map(chr, range(1, 256)))]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("adds_bos", [False, True])
def test_tokenizer_round_trip(text: str, adds_bos: bool) -> None:
    tokenizer: Any = byte_tokenizer(adds_bos)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode()) + adds_bos
    assert all(0 <= token < VOCABULARY for token in ids)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_tokenizer_has_a_chat_template_and_can_pad() -> None:
    tokenizer: Any = byte_tokenizer(adds_bos=True)
    messages = [{"role": "user", "content": "hi"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "user: hi\nassistant: "
    batch = tokenizer(["a", "bcd"], padding=True)
    assert [len(row) for row in batch["input_ids"]] == [4, 4]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
