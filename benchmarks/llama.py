"""Create Llamas with random weights, of any size."""

from __future__ import annotations

from typing import Any


def random_llama(layers: int, hidden: int, intermediate: int, heads: int) -> Any:
    """Return a Llama for the tokenizer of the built-in models."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=320,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    return LlamaForCausalLM(config)
