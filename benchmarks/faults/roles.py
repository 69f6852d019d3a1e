"""Map the roles of modules to their paths, so that one fault fits every architecture.

A *location* is a role, followed by the layer if every layer has one: ``embedding``,
``down middle``. In T5 it is in the encoder, unless the role says decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pytest_nnsight.run import ROOT

_LLAMA = {
    "embedding": "model.embed_tokens",
    "positions": "model.rotary_emb",
    "stack": "model",
    "loop": "model",
    "layer": "model.layers.{i}",
    "entry": "model.layers.{i}.input_layernorm",
    "norm": "model.layers.{i}.input_layernorm",
    "second_norm": "model.layers.{i}.post_attention_layernorm",
    "attention": "model.layers.{i}.self_attn",
    "cached": "model.layers.{i}.self_attn",
    "query": "model.layers.{i}.self_attn.q_proj",
    "key": "model.layers.{i}.self_attn.k_proj",
    "value": "model.layers.{i}.self_attn.v_proj",
    "attention_out": "model.layers.{i}.self_attn.o_proj",
    "mlp": "model.layers.{i}.mlp",
    "around_mlp": "model.layers.{i}",
    "gate": "model.layers.{i}.mlp.gate_proj",
    "up": "model.layers.{i}.mlp.up_proj",
    "activation": "model.layers.{i}.mlp.act_fn",
    "down": "model.layers.{i}.mlp.down_proj",
    "final_norm": "model.norm",
    "head": "lm_head",
}
_GPT2 = {
    "embedding": "transformer.wte",
    "positions": "transformer.wpe",
    "stack": "transformer",
    "loop": "transformer",
    "dropout": "transformer.drop",
    "layer": "transformer.h.{i}",
    "entry": "transformer.h.{i}.ln_1",
    "norm": "transformer.h.{i}.ln_1",
    "second_norm": "transformer.h.{i}.ln_2",
    "attention": "transformer.h.{i}.attn",
    "cached": "transformer.h.{i}.attn",
    "query": "transformer.h.{i}.attn.c_attn",
    "key": "transformer.h.{i}.attn.c_attn",
    "value": "transformer.h.{i}.attn.c_attn",
    "attention_out": "transformer.h.{i}.attn.c_proj",
    "mlp": "transformer.h.{i}.mlp",
    "around_mlp": "transformer.h.{i}",
    "up": "transformer.h.{i}.mlp.c_fc",
    "activation": "transformer.h.{i}.mlp.act",
    "down": "transformer.h.{i}.mlp.c_proj",
    "final_norm": "transformer.ln_f",
    "head": "lm_head",
}
_BERT = {
    "embedding": "{m}embeddings.word_embeddings",
    "positions": "{m}embeddings.position_embeddings",
    "stack": "{m}",
    "loop": "{m}encoder",
    "dropout": "{m}embeddings.dropout",
    "embedding_norm": "{m}embeddings.LayerNorm",
    "layer": "{m}encoder.layer.{i}",
    "entry": "{m}encoder.layer.{i}.attention.self.query",
    "norm": "{m}encoder.layer.{i}.attention.output.LayerNorm",
    "second_norm": "{m}encoder.layer.{i}.output.LayerNorm",
    "attention": "{m}encoder.layer.{i}.attention.self",
    "query": "{m}encoder.layer.{i}.attention.self.query",
    "key": "{m}encoder.layer.{i}.attention.self.key",
    "value": "{m}encoder.layer.{i}.attention.self.value",
    "attention_out": "{m}encoder.layer.{i}.attention.output.dense",
    "mlp": "{m}encoder.layer.{i}.intermediate",
    "around_mlp": "{m}encoder.layer.{i}",
    "up": "{m}encoder.layer.{i}.intermediate.dense",
    "activation": "{m}encoder.layer.{i}.intermediate.intermediate_act_fn",
    "down": "{m}encoder.layer.{i}.output.dense",
    "final_norm": "{m}encoder.layer.{last}.output.LayerNorm",
    "head": "cls.predictions.decoder",
}
_T5 = {
    "embedding": "encoder.embed_tokens",
    "relative_positions": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "stack": "encoder",
    "loop": "encoder",
    "dropout": "encoder.dropout",
    "layer": "encoder.block.{i}",
    "entry": "encoder.block.{i}.layer.0.layer_norm",
    "norm": "encoder.block.{i}.layer.0.layer_norm",
    "second_norm": "encoder.block.{i}.layer.1.layer_norm",
    "attention": "encoder.block.{i}.layer.0.SelfAttention",
    "cached": "decoder.block.{i}.layer.0.SelfAttention",
    "query": "encoder.block.{i}.layer.0.SelfAttention.q",
    "key": "encoder.block.{i}.layer.0.SelfAttention.k",
    "value": "encoder.block.{i}.layer.0.SelfAttention.v",
    "attention_out": "encoder.block.{i}.layer.0.SelfAttention.o",
    "mlp": "encoder.block.{i}.layer.1.DenseReluDense",
    "around_mlp": "encoder.block.{i}.layer.1",
    "up": "encoder.block.{i}.layer.1.DenseReluDense.wi",
    "activation": "encoder.block.{i}.layer.1.DenseReluDense.act",
    "down": "encoder.block.{i}.layer.1.DenseReluDense.wo",
    "final_norm": "encoder.final_layer_norm",
    "head": "lm_head",
}
_FAMILIES = {"llama": _LLAMA, "gpt2": _GPT2, "bert": _BERT, "t5": _T5}
_GPT2_THIRDS = {"query": 0, "key": 1, "value": 2}
FAMILIES = tuple(_FAMILIES)


@dataclass(frozen=True, slots=True)
class Roles:
    """Hold the module paths of one model, by role."""

    family: str
    paths: Mapping[str, str]
    layers: int

    @classmethod
    def of(cls, module: torch.nn.Module) -> Roles:
        """Find the roles of a model; a missing module, such as a head, has no role."""
        config: Any = module.config
        family, layers = config.model_type, config.num_hidden_layers
        inner = "bert." if hasattr(module, "bert") else ""
        filled = {
            role: path.format(m=inner, i="{i}", last=layers - 1).rstrip(".") or ROOT
            for role, path in _FAMILIES[family].items()
        }
        there = {name for name, _ in module.named_modules()} | {ROOT}
        paths = {role: path for role, path in filled.items() if path.format(i=0) in there}
        return cls(family, paths | {"model": ROOT}, layers)

    def has(self, location: str) -> bool:
        """Tell whether this architecture has a location."""
        return location.split()[0] in self.paths

    def path(self, location: str) -> str:
        """Return the path of a location; ``middle`` is the second of two layers."""
        role, _, layer = location.partition(" ")
        middle = self.layers // 2
        index = {"": 0, "first": 0, "previous": middle - 1, "middle": middle}
        return self.paths[role].format(i=index.get(layer, self.layers - 1))

    def third(self, location: str) -> int | None:
        """Return the third of a matrix for a location: GPT-2 stores query, key and value in one."""
        return _GPT2_THIRDS.get(location.split()[0]) if self.family == "gpt2" else None


def submodule(module: torch.nn.Module, path: str) -> Any:
    """Return the module at a path of a run, where the outermost module has a name."""
    return module if path == ROOT else module.get_submodule(path)
