"""Configs of the built-in models: two layers, hidden size 64, one token id for each byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_nnsight.errors import UsageError

VOCABULARY = 264
LONGEST = 512
IMAGE_TOKEN = 4
PICTURE = {"image_size": 32, "patch_size": 8}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, **_IDS}
_LAYERS: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
_TEXT: dict[str, Any] = _LAYERS | {"max_position_embeddings": LONGEST}


def family_config(family: str) -> tuple[Any, str]:
    """Return the config of a family and the name of its auto class, or raise `UsageError`."""
    if family not in _FAMILIES:
        raise UsageError(f"there is no built-in family {family!r}; nearest: {', '.join(_FAMILIES)}")
    make, auto = _FAMILIES[family]
    return make(), auto


def _gpt2() -> Any:
    from transformers import GPT2Config

    return GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=LONGEST, **_SIZES)


def _llama() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(num_key_value_heads=2, **_TEXT, **_SIZES)


def _bert() -> Any:
    from transformers import BertConfig

    return BertConfig(**_TEXT, **_SIZES)


def _t5() -> Any:
    from transformers import T5Config

    sizes = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4}
    return T5Config(decoder_start_token_id=0, **sizes, **_SIZES)


def _mixtral() -> Any:
    from transformers import MixtralConfig

    sizes = _TEXT | {"intermediate_size": 64}  # so that four experts are under 1 MB
    return MixtralConfig(
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, **sizes, **_SIZES
    )


def _mamba() -> Any:
    from transformers import MambaConfig

    return MambaConfig(hidden_size=64, num_hidden_layers=2, state_size=8, **_SIZES)


def _vit() -> Any:
    from transformers import ViTConfig

    return ViTConfig(num_labels=10, **PICTURE, **_LAYERS)


def _llava() -> Any:
    from transformers import CLIPVisionConfig, LlavaConfig

    return LlavaConfig(
        vision_config=CLIPVisionConfig(projection_dim=64, **PICTURE, **_LAYERS),
        text_config=_llama(),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=16,
        vision_feature_layer=-1,  # the last, so that every layer affects the logits
    )


def _whisper() -> Any:
    from transformers import WhisperConfig

    sides = ("encoder", "decoder")
    sizes = {f"{side}_layers": 2 for side in sides}
    sizes |= {f"{side}_attention_heads": 4 for side in sides}
    sizes |= {f"{side}_ffn_dim": 128 for side in sides}
    return WhisperConfig(
        d_model=64,
        num_mel_bins=16,
        max_source_positions=32,
        max_target_positions=64,
        decoder_start_token_id=1,
        **sizes,
        **_SIZES,
    )


_FAMILIES: dict[str, tuple[Callable[[], Any], str]] = {
    "gpt2": (_gpt2, "AutoModelForCausalLM"),
    "llama": (_llama, "AutoModelForCausalLM"),
    "bert": (_bert, "AutoModelForMaskedLM"),
    "t5": (_t5, "AutoModelForSeq2SeqLM"),
    "mixtral": (_mixtral, "AutoModelForCausalLM"),
    "mamba": (_mamba, "AutoModelForCausalLM"),
    "vit": (_vit, "AutoModelForImageClassification"),
    "llava": (_llava, "AutoModelForImageTextToText"),
    "whisper": (_whisper, "AutoModelForSpeechSeq2Seq"),
}
