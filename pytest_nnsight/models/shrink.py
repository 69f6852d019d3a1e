"""Shrink the config of any language model to width 64 and a few layers, by the names of its keys.

The keys of configs follow a few conventions, so there is one rule for each kind of size, and no
table of models. The model keeps its structure: every kind of layer occurs, attention with one key
head for each query head stays so, and the parts of a head still add up.
"""

from __future__ import annotations

import re
from typing import Any

from pytest_nnsight.errors import LoadError
from pytest_nnsight.models.architectures import LONGEST, SPECIAL_IDS, VOCABULARY

MOST_LAYERS = 8
MOST_PARAMETERS = 20_000_000
_WIDTH, _HEADS, _HEAD, _HALF_HEAD = 64, 4, 16, 8
_SIZES = tuple(
    (re.compile(pattern), largest)
    for pattern, largest in (
        (r"(.*_)?vocab_size(_.*)?|.*_vocab", VOCABULARY),
        (r".*(max_position_embeddings|_positions|max_seq(uence)?_len(gth)?|n_ctx)", LONGEST),
        (r".*(context_length|model_max_length)", LONGEST),
        (r".*(rope|nope)_head_dim|.*rotary_dim", _HALF_HEAD),
        (r".*(head_?dim|d_head|dim_head|head_size|d_kv|kv_channels|pre_attn_scalar)", _HEAD),
        (r".*(num_key_value|kv|key|k_n)_heads|multi_query_group_num|num_query_groups", 2),
        (r".*(heads?|mamba_num_heads)|heads_per_ngram", _HEADS),
        (r"(n_group|topk_group|.*n_groups|mamba_ngroups|num_expert_group)", 1),
        (r".*(experts_per_tok(en)?|moe_topk|moe_top_k|top_k_experts|moe_k|top_k)", 2),
        (r"(moe_)?num_(local_|routed_)?experts|n_routed_experts|(zero_)?expert_num", 4),
        (r".*(sliding_window|attention_window|window)(_size)?|local_attention", _HALF_HEAD),
        (r"(attention_)?chunk_size|index_topk|mamba_chunk_size|keep_window_size", _HALF_HEAD),
        (r".*(_rank|state_size|d_state|state_dim)", _HEAD),
        (r".*(moe|expert).*(intermediate|ffn|hidden)_size", _WIDTH // 2),
        (r".*(intermediate|ffn_hidden|feed_forward|attention_hidden)_size(_mlp)?", 2 * _WIDTH),
        (r".*(d_ff|ffn_dim|n_inner|dim_ff|inner_dim|dff|hidden_dim|_mid_dim)", 2 * _WIDTH),
        (r".*(d_inner|intermediate_dim|d_ssm)", 2 * _WIDTH),
        (r".*(hidden_size|bottleneck_size|embedding_size|emb_size|width|d_model|d_embed)", _WIDTH),
        (r".*(n_embd|n_embed|embedding_dim|embed_dim|emb_dim|embed_proj_dim)|dim(_model)?", _WIDTH),
    )
)
"""For each kind of size the pattern of its keys, and its largest value; the first that fits."""
_LAYERS = re.compile(r".*(num_hidden_layers|n_layers?|num_layers|coder_layers|num_blocks)")
_FIRST_LAYERS = re.compile(
    r"first_k_dense_replace|num_dense_layers|.*_start_index|max_window_layers"
)
_REQUIRED = re.compile(
    r"head_dim|num_key_value_heads|vocab_size|num_experts_per_tok|n_routed_experts"
)
"""Keys that some configs leave empty although their model needs them."""


def small_config(source: str) -> Any:
    """Return the small config of a model type, or of a folder if ``source`` has a slash."""
    import transformers

    if "/" in source:
        original = transformers.AutoConfig.from_pretrained(source)
    elif source in language_models():
        original = transformers.CONFIG_MAPPING[source]()
    else:
        release = f"transformers {transformers.__version__}"
        raise LoadError(f"tiny:{source} cannot be built: {release} has no such language model")
    settings = _shrink(original.to_dict(), _layer_count(original))
    for key in ("model_type", "transformers_version", "quantization_config"):
        settings.pop(key, None)
    config = type(original)(**settings)
    if not config.architectures:
        config.architectures = [language_models()[original.model_type]]
    return config


def check_size(module: Any) -> None:
    """Raise `LoadError` if a model that was built without weights is too large."""
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    if (total := sum(sizes.values())) > MOST_PARAMETERS:
        largest = max(sizes, key=lambda name: sizes[name])
        raise LoadError(
            f"tiny:{module.config.model_type} cannot be made small: {total / 1e6:.0f} M parameters "
            f"remain, {sizes[largest] / 1e6:.0f} M of them in {largest}"
        )


def language_models() -> dict[str, str]:
    """Return the class of each type; an encoder that can also decode is an encoder."""
    from transformers.models.auto import modeling_auto as auto

    return {
        **auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        **auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        **auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }


def _shrink(settings: dict[str, Any], layers: int) -> dict[str, Any]:
    """Return the settings of a config, or of a config inside it, with small sizes."""
    count = next((settings[key] for key in settings if _LAYERS.fullmatch(key)), None)
    small = {key: _small(key, value, layers, count) for key, value in settings.items()}
    small |= {key: token for key, token in SPECIAL_IDS.items() if key in small}
    if "decoder_start_token_id" in small:
        small["decoder_start_token_id"] = 0
    _keep_sums(settings, small)
    return small


def _small(key: str, value: Any, layers: int, count: Any) -> Any:
    """Return the small value of one key; ``count`` is the number of layers before."""
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):  # such as the names of labels
            return value
        if value and all(str(name).isdigit() for name in value) and key.startswith("per_layer"):
            value = {name: part for name, part in value.items() if int(name) < layers}
        return _shrink(value, layers)
    if isinstance(value, list):
        if key == "mrope_section":  # it divides half a head
            return [_HALF_HEAD * part // sum(value) for part in value]
        if key in ("short_factor", "long_factor"):  # one for each pair of a head
            return value[:_HALF_HEAD]
        if len(value) == count:
            value = value[:layers]
        return [_small(key, part, layers, None) for part in value]
    largest = next((size for pattern, size in _SIZES if pattern.fullmatch(key)), None)
    if value is None:
        return largest if _REQUIRED.fullmatch(key) else None
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if key == "vocab_size" or largest == LONGEST:
        return largest  # also of a model that takes less: the suite's long prompt must fit
    if key == "num_kv_shared_layers":
        return 0  # else the few layers that remain may lack those that share
    if re.fullmatch(r".*token_(id|index)", key):
        return value if value < VOCABULARY else len(SPECIAL_IDS) + 1
    if _LAYERS.fullmatch(key):
        largest = layers
    elif _FIRST_LAYERS.fullmatch(key):
        largest = 1
    return value if largest is None else min(value, largest)


def _keep_sums(settings: dict[str, Any], small: dict[str, Any]) -> None:
    """Restore what relates sizes to each other."""
    heads, pairs = settings.get("num_attention_heads"), settings.get("num_key_value_heads")
    if heads == pairs and isinstance(heads, int):
        small["num_key_value_heads"] = small["num_attention_heads"]
    if "qk_rope_head_dim" in small and settings.get("head_dim") == settings["qk_rope_head_dim"]:
        small["head_dim"] = small["qk_rope_head_dim"]
    for key in small:
        expand = small.get("expand", small.get("mamba_expand"))
        is_state = "mamba" in key or "num_attention_heads" not in small
        if expand and is_state and re.fullmatch(r"(mamba_)?(head_?dim|d_head)", key):
            small[key] = int(expand * _WIDTH) // _HEADS
    if "attention_hidden_size" in small:  # of Zamba twice the width
        times = settings["attention_hidden_size"] // settings["hidden_size"]
        small["attention_hidden_size"] = times * _WIDTH
        small["attention_head_dim"] = small["attention_hidden_size"] // _HEADS


def _layer_count(config: Any) -> int:
    """Return how many layers are needed until every kind of layer has occurred, at least two."""
    most = 2
    configs = [config, *(getattr(config, name, None) for name in config.sub_configs)]
    names = ("layer_types", "layers_block_type", "mlp_layer_types", "block_types")
    for kinds in [getattr(part, name, None) for part in configs for name in names]:
        if isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds):
            most = max([most, *(kinds.index(kind) + 1 for kind in set(kinds))])
    return min(most, MOST_LAYERS)
