"""A small model of any model type, or of the config in a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_nnsight.errors import LoadError
from pytest_nnsight.models.loading import load
from pytest_nnsight.models.shrink import MOST_PARAMETERS, check_size, small_config
from pytest_nnsight.models.spec import LoadOptions, parse_spec
from pytest_nnsight.models.tiny import build

TYPES = {
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "jamba": "JambaForCausalLM",
    "mamba2": "Mamba2ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "roberta": "RobertaForMaskedLM",
    "modernbert": "ModernBertForMaskedLM",
    "bart": "BartForConditionalGeneration",
    "t5gemma": "T5GemmaForConditionalGeneration",
    "xlnet": "XLNetLMHeadModel",
}
WITHOUT_EFFECT = ("key.bias", "k_proj.bias", "seg_embed", "r_s_bias", "mask_emb")
"""Softmax ignores a bias of all keys; XLNet uses segments and masks only if they are given."""
IDS = (torch.arange(34) * 37 % 250 + 5)[None]


@lru_cache
def model_of(source: str) -> Any:
    return build(source, torch.float32, None)[0]


@torch.no_grad()
def logits_of(source: str) -> torch.Tensor:
    model = model_of(source)
    decoder = {"decoder_input_ids": IDS[:, :6]} if model.config.is_encoder_decoder else {}
    logits: torch.Tensor = model(input_ids=IDS, attention_mask=torch.ones_like(IDS), **decoder)[0]
    return logits


@pytest.mark.parametrize("model_type", TYPES)
def test_a_model_of_the_type_is_small_and_finite(model_type: str) -> None:
    model = model_of(model_type)
    assert type(model).__name__ == TYPES[model_type]
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert logits_of(model_type).isfinite().all()
    assert logits_of(model_type).shape[-1] == 264
    assert not model.training


@pytest.mark.parametrize("model_type", TYPES)
def test_every_weight_reaches_the_logits(model_type: str) -> None:
    """Five percent of half of one parameter changes the logits by more than the tolerance."""
    before, unseen = logits_of(model_type), []
    for name, parameter in model_of(model_type).named_parameters():
        with torch.no_grad():
            saved = parameter.clone()
            parameter.view(-1)[::2] *= 1.05
            if float((logits_of(model_type) - before).norm() / before.norm()) < 2e-5:
                unseen.append(name)
            parameter.copy_(saved)
    assert [name for name in unseen if not any(part in name for part in WITHOUT_EFFECT)] == []
    assert torch.equal(logits_of(model_type), before)


def test_every_kind_of_layer_occurs() -> None:
    assert small_config("gemma3_text").layer_types == ["sliding_attention"] * 5 + ["full_attention"]
    assert small_config("jamba").layers_block_type == ["mamba"] * 4 + ["attention"]
    names = [name for name, _ in model_of("deepseek_v3").named_modules()]
    assert "model.layers.0.mlp.gate_proj" in names
    assert "model.layers.1.mlp.shared_experts" in names


def test_heads_keep_their_structure() -> None:
    grouped, plain, latent = map(small_config, ("mistral", "phi", "deepseek_v3"))
    assert (grouped.num_attention_heads, grouped.num_key_value_heads) == (4, 2)
    assert (plain.num_attention_heads, plain.num_key_value_heads) == (4, 4)
    assert latent.qk_head_dim == latent.qk_nope_head_dim + latent.qk_rope_head_dim == 16
    assert latent.head_dim == latent.qk_rope_head_dim


def test_the_same_type_has_the_same_bits_in_another_process() -> None:
    code = (
        "import torch; from pytest_nnsight.models.tiny import build; "
        "from pytest_nnsight.summary.fingerprint import *; "
        "print(weights_fingerprint(fingerprint_parameters(build('qwen3', torch.float32, None)[0])))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout != ""


def test_building_leaves_the_random_generator_alone() -> None:
    state = torch.get_rng_state()
    build("qwen3", torch.float32, None)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture
def phi3(tmp_path: Path) -> Path:
    """A folder with the config of Phi-3-mini-128k, its long rotary factors included."""
    folder = tmp_path / "Phi-3-mini-128k"
    folder.mkdir()
    rope = {"type": "longrope", "short_factor": [1.05] * 48, "long_factor": [1.5] * 48}
    config = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_scaling": rope,
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "vocab_size": 32064,
        "bos_token_id": 1,
        "eos_token_id": [32000, 32007],
        "pad_token_id": 32000,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_folder_is_built_from_its_config_alone(phi3: Path) -> None:
    spec = parse_spec(f"tiny:{phi3}")
    assert (spec.name, spec.public) == ("tiny-Phi-3-mini-128k", "tiny:Phi-3-mini-128k")
    module = load(spec, LoadOptions(device_map="cpu"), lambda text: None)._module
    assert type(module).__name__ == "Phi3ForCausalLM"
    assert module.config.rms_norm_eps == 1e-5
    assert (module.config.hidden_size, module.config.num_hidden_layers) == (64, 2)
    assert module(IDS).logits.isfinite().all()


def test_a_type_without_a_language_model_is_refused() -> None:
    import transformers

    with pytest.raises(LoadError) as caught:
        load(parse_spec("tiny:clip"), LoadOptions(), lambda text: None)
    release = f"transformers {transformers.__version__}"
    assert str(caught.value) == f"tiny:clip cannot be built: {release} has no such language model"


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("musicgen", "AttributeError: 'MusicgenConfig' object has no attribute 'dropout'"),
        (
            "gemma4_assistant",
            "StrictDataclassClassValidationError: Class validation error for validator "
            "'validate_architecture': ValueError: hidden_size_per_layer_input must be 0, got 256",
        ),
    ],
)
def test_a_type_that_cannot_be_built_says_why(model_type: str, reason: str) -> None:
    with pytest.raises(LoadError) as caught:
        load(parse_spec(f"tiny:{model_type}"), LoadOptions(), lambda text: None)
    assert str(caught.value) == f"cannot load tiny:{model_type}: {reason}"


def test_a_model_that_stays_large_is_refused() -> None:
    with torch.device("meta"):
        model = torch.nn.Linear(MOST_PARAMETERS, 2, bias=False)
    model.config = type("Config", (), {"model_type": "wide"})  # type: ignore[assignment]
    message = "tiny:wide cannot be made small: 40 M parameters remain, 40 M of them in weight"
    with pytest.raises(LoadError, match=message):
        check_size(model)


def test_suite_of_a_type_writes_and_matches_goldens(user: pytest.Pytester) -> None:
    arguments = ("--nnsight-suite", "--nnsight-model", "tiny:qwen3", "-k", "short")
    user.runpytest_subprocess(*arguments, "--snapshot-update").assert_outcomes(passed=1)
    result = user.runpytest_subprocess(*arguments)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 golden: 1 the same bit by bit"])
    golden = user.path / "golden/tiny-qwen3/cpu-float32/suite/test_short_prompt.json"
    assert json.loads(golden.read_text())["model"]["spec"] == "tiny:qwen3"
