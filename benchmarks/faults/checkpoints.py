"""Faults of checkpoints that were converted, cut, tied or read incorrectly."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.faults.fault import fault
from benchmarks.faults.variant import Variant
from benchmarks.faults.weights import head_of, is_untied


def is_tied(module: Any) -> bool:
    """Tell whether the head uses the embedding's weights."""
    head = head_of(module)
    return head is not None and head.weight is module.get_input_embeddings().weight


def exchange(one: torch.Tensor, other: torch.Tensor) -> None:
    """Swap the values of two matrices."""
    values = one.clone()
    one.copy_(other)
    other.copy_(values)


@fault(starts="down first", causes="weights")
def two_layers_swapped_matrices(variant: Variant) -> None:
    """Swap one matrix of the first layer with that of the last layer."""
    one, other = variant.matrix("down first"), variant.matrix("down last")
    exchange(one, other)


@fault(starts="gate middle", causes="weights", families=("llama",))
def gate_and_up_swapped(variant: Variant) -> None:
    """Swap the two input matrices of a gated MLP."""
    one, other = variant.matrix("gate middle"), variant.matrix("up middle")
    exchange(one, other)


@fault(starts="query middle", causes="weights", families=("gpt2", "bert", "t5"))
def query_and_key_swapped(variant: Variant) -> None:
    """Swap query and key."""
    one, other = variant.matrix("query middle"), variant.matrix("key middle")
    exchange(one, other)


@fault(starts="query first", causes="weights", families=("llama",))
def rotary_rows_interleaved(variant: Variant) -> None:
    """Leave queries and keys of all layers in the row order of another rotary convention."""
    width = variant.module.config.head_dim
    layers = variant.roles.path("layer first").rpartition(".")[0]
    for name, parameter in variant.module.named_parameters():
        if name.startswith(layers) and ("q_proj" in name or "k_proj" in name):
            values = variant.writable(parameter)
            heads = values.view(-1, 2, width // 2, values.shape[1])
            values.copy_(heads.transpose(1, 2).reshape(values.shape))


@fault(starts="entry last", causes="weights")
def a_layer_loaded_twice(variant: Variant) -> None:
    """Give the last layer the weights of the first."""
    one, other = variant.at("layer first"), variant.at("layer last")
    there = dict(one.named_parameters())
    for name, parameter in other.named_parameters():
        variant.writable(parameter).copy_(there[name])


@fault(starts="down last", causes="weights")
def a_matrix_never_loaded(variant: Variant) -> None:
    """Leave one matrix at its initial values: its name was not found in the checkpoint."""
    matrix = variant.matrix("down last")
    matrix.copy_(torch.randn(matrix.shape, generator=torch.Generator().manual_seed(0)) * 0.02)


@fault(starts="attention_out middle", causes="weights")
def a_transposed_matrix(variant: Variant) -> None:
    """Load a square matrix transposed, as converters do by mistake."""
    matrix = variant.matrix("attention_out middle")
    assert matrix.shape[0] == matrix.shape[1]
    matrix.copy_(matrix.t().clone())


@fault(starts="head", causes="weights", needs=is_tied)
def a_token_that_is_not_in_the_prompt(variant: Variant) -> None:
    """Change the embedding of an unused token, which the tied head uses."""
    variant.writable(variant.at("embedding").weight)[-3] *= 1.01


@fault(starts="head", causes="weights", needs=is_tied)
def a_tied_head_of_its_own(variant: Variant) -> None:
    """Untie the head, with weights larger by one percent."""
    head = variant.at("head")
    head.weight = torch.nn.Parameter(head.weight.detach() * 1.01)


@fault(starts="head", causes="weights", needs=is_untied)
def a_head_tied_by_mistake(variant: Variant) -> None:
    """Use the embedding as head, although the checkpoint has one."""
    variant.at("head").weight = variant.at("embedding").weight


@fault(starts="up middle", causes="weights", families=("gpt2", "bert"))
def a_bias_is_missing(variant: Variant) -> None:
    """Leave one bias at zero."""
    variant.writable(variant.at("up middle").bias).zero_()


@fault(starts="final_norm", causes="weights")
def a_gain_of_one_more(variant: Variant) -> None:
    """Store the final norm's gain by the other convention, smaller by one."""
    variant.writable(variant.at("final_norm").weight).add_(1)
