"""The model types of the table, and the reasons for what is red."""

from __future__ import annotations

TYPES = tuple(
    """
    afmoe albert apertus arcee bart bert-generation big_bird biogpt bitnet blenderbot bloom camembert
    codegen cohere2 convbert ctrl cwm data2vec-text deberta-v2 deepseek_v2 deepseek_v3 deepseek_v32
    diffllama distilbert doge electra ernie4_5_moe esm exaone4 falcon falcon_h1 falcon_mamba fnet
    gemma gemma2 gemma3_text gemma3n_text gemma4_text glm4_moe gpt_bigcode gpt_neo gpt_neox gpt_oss
    gptj granite granitemoe helium hunyuan_v1_dense jamba jetmoe kimi_linear led lfm2 llama4_text
    longcat_flash longformer longt5 m2m_100 mamba2 marian mbart minimax ministral mistral
    modernbert modernbert-decoder mpnet mpt mt5 nemotron nemotron_h olmo2 olmoe openai-gpt opt
    pegasus persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next recurrent_gemma
    roberta roformer rwkv smollm3 stablelm starcoder2 switch_transformers t5gemma umt5 xglm xlm
    xlnet zamba2
    """.split()
)
REASONS: dict[tuple[str, str], str] = {}
"""Why a column is red, by model type and column; the type ``""`` stands for all."""
