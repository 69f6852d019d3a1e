"""The model types of the table, and the reasons for what is red."""

from __future__ import annotations

TYPES = tuple(
    """
    albert apertus bart big_bird bitnet bloom codegen cohere2 ctrl deberta-v2 deepseek_v2
    deepseek_v3 distilbert electra ernie4_5_moe exaone4 falcon falcon_h1 falcon_mamba fnet
    gemma gemma2 gemma3_text gemma4_text glm4_moe gpt_bigcode gpt_neo gpt_neox gpt_oss gptj
    granite granitemoe hunyuan_v1_dense jamba jetmoe kimi_linear led lfm2 llama4_text
    longcat_flash longformer m2m_100 mamba2 marian mbart minimax mistral modernbert mpnet
    mpt mt5 nemotron nemotron_h olmo2 olmoe opt pegasus phi phi3 phimoe qwen2 qwen3
    qwen3_moe qwen3_next recurrent_gemma roberta roformer rwkv smollm3 stablelm starcoder2
    switch_transformers t5gemma xlm xlnet zamba2
    """.split()  # noqa: SIM905  # a list would take a line for each
)
REASONS = (
    (
        r"modules replaced or added|no golden golden/tiny-big_bird|was changed: missing",
        "BigBird replaces its attention modules when a prompt is short, which counts as a leak.",
    ),
    (
        r"weights changed by this test|tiny-switch_transformers",
        "The router casts its own weights to float32 when it is called, which counts as a change.",
    ),
    (
        r"Unsupported dtype BFloat16",
        "torch has no Fourier transform in bfloat16.",
    ),
    (
        r"expected m1 and m2 to have the same dtype",
        "XLNet mixes float32 and bfloat16 when it generates: an error of transformers.",
    ),
    (
        r"(gate|router) out\[\d\] \(rel inf",
        "Rounding selects another expert in a near tie, so other tokens pass through its modules. "
        "In float32 the same runs agree.",
    ),
    (
        r"starts (in|at) \S*experts",
        "The tensors inside the experts hold the tokens that were routed there, padding included, "
        "and do not say which token is which.",
    ),
    (
        r"is given causal_mask: None -> tensor",
        "The drift is over the tolerance from a gated norm on, in bfloat16 alone: in float32 the "
        "same runs agree. Only eager attention gets a mask here, which is why it is named.",
    ),
)
"""Pairs of a pattern of a problem, and the reason why it remains."""
