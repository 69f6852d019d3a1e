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
REASONS: dict[tuple[str, str], str] = {}
"""Why a column is red, by model type and column; the type ``""`` stands for all."""
