"""Configs of the built-in models: two layers, hidden size 64, one token id for each byte."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

VOCABULARY = 264
LONGEST = 512
IMAGE_TOKEN = 4
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, **SPECIAL_IDS}
_LAYERS: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
_TEXT: dict[str, Any] = _LAYERS | _SIZES | {"max_position_embeddings": LONGEST}
_LLAMA = _TEXT | {"num_key_value_heads": 2}
_IMAGE: dict[str, Any] = _LAYERS | {"image_size": 32, "patch_size": 8}
_T5 = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4}
_MIXTRAL = {
    "intermediate_size": 64,  # so that four experts are under 1 MB
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
_LLAVA = {
    "vision_config": {"model_type": "clip_vision_model", "projection_dim": 64, **_IMAGE},
    "text_config": {"model_type": "llama", **_LLAMA},
    "image_token_index": IMAGE_TOKEN,
    "image_seq_length": 16,
    "vision_feature_layer": -1,  # the last, so that every layer affects the logits
}
_WHISPER = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "num_mel_bins": 16,
    "max_source_positions": 32,
    "max_target_positions": 64,
    "decoder_start_token_id": 1,
}
_TASKS = (
    "ForCausalLM",
    "ForSeq2SeqLM",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForImageTextToText",
    "ForImageClassification",
    "ForSemanticSegmentation",
    "ForObjectDetection",
    "ForDepthEstimation",
    "ForSpeechSeq2Seq",
    "ForCTC",
    "ForAudioClassification",
    "",
)
"""The endings of the names of transformers' auto classes, in the order of preference."""
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2Config",
        "AutoModelForCausalLM",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": LONGEST, **_SIZES},
    ),
    "llama": ("LlamaConfig", "AutoModelForCausalLM", _LLAMA),
    "bert": ("BertConfig", "AutoModelForMaskedLM", _TEXT),
    "t5": ("T5Config", "AutoModelForSeq2SeqLM", _T5 | _SIZES | {"decoder_start_token_id": 0}),
    "mixtral": ("MixtralConfig", "AutoModelForCausalLM", _LLAMA | _MIXTRAL),
    "mamba": (
        "MambaConfig",
        "AutoModelForCausalLM",
        {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, **_SIZES},
    ),
    "vit": ("ViTConfig", "AutoModelForImageClassification", {"num_labels": 10, **_IMAGE}),
    "llava": ("LlavaConfig", "AutoModelForImageTextToText", _LLAVA),
    "whisper": ("WhisperConfig", "AutoModelForSpeechSeq2Seq", _WHISPER | _SIZES),
}
"""For each family the name of its config class, that of its auto class, and the settings."""


def family_config(family: str) -> tuple[Any, str]:
    """Return the config of a family and the name of its auto class."""
    import transformers

    kind, auto, settings = FAMILIES[family]
    return getattr(transformers, kind)(**deepcopy(settings)), auto


def auto_class(config: Any) -> str:
    """Choose transformers' auto class for the architecture that the config names."""
    import transformers

    names = [f"AutoModel{task}" for task in _TASKS]
    custom = getattr(config, "auto_map", None) or {}  # of a model with custom code
    if (auto := next((name for name in names if name in custom), None)) is not None:
        return auto
    architecture = (getattr(config, "architectures", None) or [""])[0]
    for name in names:
        auto_class = getattr(transformers, name, None)
        made = getattr(auto_class, "_model_mapping", {}).get(type(config), ())
        classes = made if isinstance(made, list | tuple) else (made,)
        if architecture in [kind.__name__ for kind in classes]:
            return name
    is_encoder_decoder = getattr(config, "is_encoder_decoder", False)
    return "AutoModelForSeq2SeqLM" if is_encoder_decoder else "AutoModelForCausalLM"
