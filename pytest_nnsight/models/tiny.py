"""Built-in models of two layers, under 1 MB, whose weights are the same bits on every machine.

A weight depends on its parameter's name and position alone: uniform numbers from numpy's Philox
counter, keyed by the name. Only the raw words are used, which numpy keeps stable between versions.
The scales are those of a trained model rather than of an initialisation, so that a change anywhere
reaches the logits.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from pytest_nnsight.errors import UsageError

VOCABULARY = 264
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
LONGEST = 512
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def build(family: str, dtype: torch.dtype, attn: str | None) -> tuple[torch.nn.Module, Any]:
    """Return the model and the tokenizer of ``gpt2``, ``llama``, ``bert`` or ``t5``."""
    import transformers

    config, auto = _config(family)
    keywords = {} if attn is None else {"attn_implementation": attn}
    model = getattr(transformers, auto).from_config(config, **keywords)
    fill(model)
    return model.to(dtype).eval(), byte_tokenizer(adds_bos=family == "llama")


def _config(family: str) -> tuple[Any, str]:
    import transformers

    sizes = {"vocab_size": VOCABULARY, **_IDS}
    wide = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    wide |= {"intermediate_size": 128, "max_position_embeddings": LONGEST}
    if family == "gpt2":
        return transformers.GPT2Config(
            n_embd=64, n_layer=2, n_head=4, n_positions=LONGEST, **sizes
        ), "AutoModelForCausalLM"
    if family == "llama":
        return transformers.LlamaConfig(
            num_key_value_heads=2, **wide, **sizes
        ), "AutoModelForCausalLM"
    if family == "bert":
        return transformers.BertConfig(**wide, **sizes), "AutoModelForMaskedLM"
    if family == "t5":
        return transformers.T5Config(
            d_model=64,
            d_ff=128,
            d_kv=16,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            **sizes,
        ), "AutoModelForSeq2SeqLM"
    raise UsageError(f"there is no built-in family {family!r}; nearest: gpt2, llama, bert, t5")


def fill(model: torch.nn.Module) -> None:
    """Overwrite every parameter by numbers that depend on its name and shape alone."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            numbers = uniform(name, parameter.numel()).reshape(tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(_scaled(name, numbers)))


def uniform(name: str, count: int) -> np.ndarray:
    """Return ``count`` float32 numbers in [-1, 1), 24 bits each, that depend on ``name`` alone."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    words = np.random.Philox(key=key).random_raw(count)
    return ((words >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0).astype(np.float32)


def _scaled(name: str, numbers: np.ndarray) -> np.ndarray:
    """Give each kind of parameter its usual size; matrices keep the size of what they multiply."""
    if name.endswith("bias"):
        return numbers * np.float32(0.125)
    if numbers.ndim == 1:
        return numbers * np.float32(0.25) + np.float32(1.0)
    if "wte" in name or "embed" in name or "shared" in name:
        return numbers
    if "wpe" in name or "relative_attention_bias" in name:
        return numbers * np.float32(0.5)
    # A power of two near sqrt(3 / fan in): exact in every half type's exponent.
    fan_in = numbers.shape[0] if "c_" in name else numbers.shape[1]
    return numbers * np.float32(2.0 ** round(np.log2((3.0 / fan_in) ** 0.5)))


def byte_tokenizer(adds_bos: bool) -> Any:
    """Build a tokenizer of one token a byte, with a chat template, and nothing downloaded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=LONGEST,
        # transformers 4 adds token_type_ids by itself, which GPT-2 embeds and T5 refuses.
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return fast
