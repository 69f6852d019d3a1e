"""Faults in the weights; config and code are unchanged."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.faults.fault import fault
from benchmarks.faults.variant import Variant


def head_of(module: Any) -> Any:
    """Return the layer that computes logits, or ``None``."""
    return module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None


def is_untied(module: Any) -> bool:
    """Tell whether the head has its own weights."""
    head = head_of(module)
    return head is not None and head.weight is not module.get_input_embeddings().weight


def a_used_token(variant: Variant) -> int:
    """Return a token id of the prompt."""
    return int(variant.tokenizer(variant.probe.prompt)["input_ids"][3])


def noise(like: torch.Tensor, size: float) -> torch.Tensor:
    """Return dense noise whose norm is ``size`` times that of ``like``; always the same."""
    values = torch.randn(like.shape, generator=torch.Generator().manual_seed(1))
    return values * float(size * like.norm() / values.norm())


def through_int8(weight: torch.Tensor) -> torch.Tensor:
    """Round to 255 levels, with one scale for each row."""
    scale = weight.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round() * scale


@fault(starts="down middle", causes="weights")
def one_weight(variant: Variant) -> None:
    """Add 0.05 to one element of an MLP matrix."""
    variant.matrix("down middle")[3, 5] += 0.05


@fault(starts="down middle", causes="weights")
def one_weight_by_a_thousandth(variant: Variant) -> None:
    """Change the largest element of an MLP matrix by one part in a thousand."""
    matrix = variant.matrix("down middle")
    row, column = divmod(int(matrix.abs().argmax()), matrix.shape[1])
    matrix[row, column] *= 1.001


@fault(starts="up middle", causes="weights")
def one_weight_is_nan(variant: Variant) -> None:
    """Put a NaN into one element."""
    variant.matrix("up middle")[2, 3] = torch.nan


@fault(starts="up middle", causes="weights")
def one_row_changes_sign(variant: Variant) -> None:
    """Negate one output channel."""
    variant.matrix("up middle")[7] *= -1


@fault(starts="query middle", causes="weights")
def one_row_of_queries(variant: Variant) -> None:
    """Scale one output channel by 1.001."""
    variant.matrix("query middle")[3] *= 1.001


@fault(starts="query last", causes="weights")
def one_head_of_queries(variant: Variant) -> None:
    """Scale one attention head by 1 + 1e-4."""
    rows = variant.head_slice("query last", 1)
    variant.matrix("query last")[rows] *= 1 + 1e-4


@fault(starts="value middle", causes="weights")
def one_head_is_zero(variant: Variant) -> None:
    """Drop the values of one attention head."""
    variant.matrix("value middle")[variant.head_slice("value middle", 1)] = 0


@fault(starts="value first", causes="weights")
def two_heads_swapped(variant: Variant) -> None:
    """Swap the values of two attention heads."""
    matrix = variant.matrix("value first")
    one, other = variant.head_slice("value first", 0), variant.head_slice("value first", 1)
    matrix[one], matrix[other] = matrix[other].clone(), matrix[one].clone()


@fault(starts="up middle", causes="weights")
def a_matrix_through_bfloat16(variant: Variant) -> None:
    """Round one matrix to bfloat16."""
    matrix = variant.matrix("up middle")
    matrix.copy_(matrix.bfloat16())


@fault(starts="attention_out middle", causes="weights")
def a_matrix_through_float16(variant: Variant) -> None:
    """Round one matrix to float16."""
    matrix = variant.matrix("attention_out middle")
    matrix.copy_(matrix.half())


@fault(starts="down last", causes="weights")
def a_matrix_through_int8(variant: Variant) -> None:
    """Quantise one matrix to int8 and back."""
    matrix = variant.matrix("down last")
    matrix.copy_(through_int8(matrix))


@fault(starts="embedding", causes="weights")
def all_weights_through_bfloat16(variant: Variant) -> None:
    """Round the checkpoint to bfloat16, as if it was saved in that dtype."""
    for parameter in variant.module.parameters():
        values = variant.writable(parameter)
        values.copy_(values.bfloat16())


@fault(starts="embedding", causes="weights")
def all_weights_through_float16(variant: Variant) -> None:
    """Round the checkpoint to float16."""
    for parameter in variant.module.parameters():
        values = variant.writable(parameter)
        values.copy_(values.half())


@fault(starts="query first", causes="weights")
def all_matrices_through_int8(variant: Variant) -> None:
    """Quantise the matrices of all layers to int8 and back, not the embeddings."""
    layers = variant.roles.path("layer first").rpartition(".")[0]
    for name, parameter in variant.module.named_parameters():
        if name.startswith(layers) and parameter.ndim == 2 and "relative" not in name:
            values = variant.writable(parameter)
            values.copy_(through_int8(values))


@fault(starts="down middle", causes="weights")
def the_smallest_weights_pruned(variant: Variant) -> None:
    """Set the smallest hundredth of a matrix to zero."""
    matrix = variant.matrix("down middle")
    limit = matrix.abs().flatten().kthvalue(matrix.numel() // 100).values
    matrix[matrix.abs() <= limit] = 0


@fault(starts="attention_out middle", causes="weights")
def a_small_adapter_merged(variant: Variant) -> None:
    """Add a matrix of rank one, a thousandth as large."""
    matrix = variant.matrix("attention_out middle")
    generator = torch.Generator().manual_seed(0)
    added = torch.randn(len(matrix), 1, generator=generator)
    added = added @ torch.randn(1, matrix.shape[1], generator=generator)
    matrix += added * (1e-3 * matrix.norm() / added.norm())


@fault(starts="down middle", causes="weights")
def noise_of_a_thousandth(variant: Variant) -> None:
    """Add dense noise to one matrix, 1e-3 of its norm."""
    matrix = variant.matrix("down middle")
    matrix += noise(matrix, 1e-3)


@fault(starts="key middle", causes="weights")
def noise_of_a_ten_thousandth(variant: Variant) -> None:
    """Add dense noise to one matrix, 1e-4 of its norm."""
    matrix = variant.matrix("key middle")
    matrix += noise(matrix, 1e-4)


@fault(starts="up middle", causes="weights")
def noise_near_the_line(variant: Variant) -> None:
    """Add dense noise to one matrix, 2e-5 of its norm."""
    matrix = variant.matrix("up middle")
    matrix += noise(matrix, 2e-5)


@fault(starts="embedding", causes="weights")
def one_row_of_the_embedding(variant: Variant) -> None:
    """Scale the embedding of one token of the prompt by 1 + 1e-4."""
    token = a_used_token(variant)
    variant.writable(variant.at("embedding").weight)[token] *= 1 + 1e-4


@fault(starts="head", causes="weights", needs=is_untied)
def one_row_of_the_head(variant: Variant) -> None:
    """Scale the head's row of one token by 1 + 1e-4."""
    variant.matrix("head")[70] *= 1 + 1e-4


@fault(starts="second_norm middle", causes="weights")
def one_gain_of_a_norm(variant: Variant) -> None:
    """Scale one channel of a norm by 1.01."""
    variant.writable(variant.at("second_norm middle").weight)[7] *= 1.01


@fault(starts="down first", causes="weights", families=("gpt2", "bert"))
def one_bias(variant: Variant) -> None:
    """Add a thousandth to one element of a bias."""
    variant.writable(variant.at("down first").bias)[11] += 1e-3


@fault(starts="positions", causes="weights", families=("gpt2", "bert"))
def one_row_of_the_positions(variant: Variant) -> None:
    """Scale the embedding of one position by 1.001."""
    variant.writable(variant.at("positions").weight)[4] *= 1.001


@fault(starts="relative_positions", causes="weights", families=("t5",))
def one_bucket_of_the_distances(variant: Variant) -> None:
    """Add 1e-3 to the bias of one distance."""
    variant.writable(variant.at("relative_positions").weight)[2] += 1e-3
