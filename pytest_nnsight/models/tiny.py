"""Built-in models of two layers, under 1 MB, with the same weights on every machine."""

from __future__ import annotations

from typing import Any

import torch

from pytest_nnsight.models.architectures import FAMILIES, LONGEST, auto_class, family_config
from pytest_nnsight.models.random_weights import fill
from pytest_nnsight.models.shrink import check_size, small_config

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")


def build(source: str, dtype: torch.dtype, attn: str | None) -> tuple[torch.nn.Module, Any]:
    """Return the model of a type such as ``gpt2`` or of a folder, and its tokenizer for text.

    Raise `LoadError` if there is no such type, or if its model cannot be made small.
    """
    import transformers

    if source in FAMILIES:
        config, auto = family_config(source)
    else:
        config = small_config(source)
        auto = auto_class(config)
    keywords = {} if attn is None else {"attn_implementation": attn}
    auto_model = getattr(transformers, auto)
    if source not in FAMILIES:
        with torch.device("meta"):
            check_size(auto_model.from_config(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for buffers, which `fill` leaves
        model = auto_model.from_config(config, **keywords)
    fill(model)
    takes_text = source != "vit"
    tokenizer = byte_tokenizer(source in ("llama", "mixtral", "llava")) if takes_text else None
    return model.to(dtype).eval(), tokenizer


def byte_tokenizer(adds_bos: bool) -> Any:
    """Build a tokenizer with one token for each byte and a chat template, without a download."""
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
        # By default transformers 4 adds token_type_ids, which GPT-2 embeds and T5 refuses.
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return fast
