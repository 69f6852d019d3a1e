"""Faults in precision: casts, autocast, quantisation, and unexpected half types."""

from __future__ import annotations

from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from benchmarks.faults.attention import replace_attention
from benchmarks.faults.fault import fault
from benchmarks.faults.roles import submodule
from benchmarks.faults.variant import Variant
from benchmarks.faults.weights import through_int8

_LINEAR = (torch.nn.Linear, Conv1D)


class Int8Linear(torch.nn.Module):
    """A linear layer that stores its weight as int8 with one scale for each row."""

    def __init__(self, rows: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        scale = rows.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
        self.weight = torch.nn.Buffer((rows / scale).round().to(torch.int8))
        self.scale = torch.nn.Buffer(scale)
        self.bias = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Multiply with the weight as float."""
        weight = self.weight.to(hidden_states.dtype) * self.scale.to(hidden_states.dtype)
        return torch.nn.functional.linear(hidden_states, weight, self.bias)


def quantise(variant: Variant, path: str) -> None:
    """Replace a linear layer by an `Int8Linear`."""
    parent, _, name = path.rpartition(".")
    module = submodule(variant.module, path)
    weight = module.weight.detach()
    rows = weight.t() if isinstance(module, Conv1D) else weight
    setattr(variant.module.get_submodule(parent), name, Int8Linear(rows, module.bias))


def linears(variant: Variant) -> list[str]:
    """Return the paths of the linear layers inside the layers, in module order."""
    layers = variant.roles.path("layer first").rpartition(".")[0] + "."
    return [
        name
        for name, module in variant.module.named_modules()
        if name.startswith(layers) and isinstance(module, _LINEAR)
    ]


def compute_in(variant: Variant, location: str, dtype: torch.dtype) -> None:
    """Run one linear layer in a half type, and cast its output back."""

    def forward(module: Any, original: Any, x: torch.Tensor) -> torch.Tensor:
        weight = module.weight.t() if isinstance(module, Conv1D) else module.weight
        bias = getattr(module, "bias", None)
        bias = None if bias is None else bias.to(dtype)
        return torch.nn.functional.linear(x.to(dtype), weight.to(dtype), bias).to(x.dtype)

    variant.replace_forward(location, forward)


@fault(starts="query first", causes="structure")
def autocast_left_on(variant: Variant) -> None:
    """Run under autocast to bfloat16."""
    variant.hold(torch.autocast("cpu", dtype=torch.bfloat16))


@fault(starts="query first", causes="structure")
def autocast_to_float16(variant: Variant) -> None:
    """Run under autocast to float16."""
    variant.hold(torch.autocast("cpu", dtype=torch.float16))


@fault(starts="up middle", causes="code")
def one_matrix_product_in_bfloat16(variant: Variant) -> None:
    """Multiply in bfloat16 in one module, and cast back."""
    compute_in(variant, "up middle", torch.bfloat16)


@fault(starts="attention_out last", causes="code")
def one_matrix_product_in_float16(variant: Variant) -> None:
    """Multiply in float16 in one module, and cast back."""
    compute_in(variant, "attention_out last", torch.float16)


@fault(starts="head", causes="code")
def logits_in_bfloat16(variant: Variant) -> None:
    """Compute the logits in bfloat16, and cast back."""
    compute_in(variant, "head", torch.bfloat16)


@fault(starts="down middle", causes=("structure", "weights"))
def one_quantised_linear(variant: Variant) -> None:
    """Replace one linear layer by an int8 layer."""
    quantise(variant, variant.roles.path("down middle"))


@fault(starts="query first", causes=("structure", "weights"))
def all_linears_quantised(variant: Variant) -> None:
    """Replace all linear layers by int8 layers, except embeddings and head."""
    for path in linears(variant):
        quantise(variant, path)


@fault(starts="up middle", causes="code")
def one_input_through_int8(variant: Variant) -> None:
    """Quantise the input of one linear layer, token by token, as dynamic quantisation does."""

    def forward(module: Any, original: Any, x: torch.Tensor) -> Any:
        return original(through_int8(x))

    variant.replace_forward("up middle", forward)


@fault(starts="layer middle", causes="code")
def the_residual_stream_through_bfloat16(variant: Variant) -> None:
    """Round the output of one layer to bfloat16."""

    def forward(module: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        value = original(*args, **kwargs)
        if isinstance(value, tuple):
            return (value[0].bfloat16().to(value[0].dtype), *value[1:])
        return value.bfloat16().to(value.dtype)

    variant.replace_forward("layer middle", forward)


@fault(starts="norm middle", causes="code")
def one_norm_in_bfloat16(variant: Variant) -> None:
    """Compute one norm in bfloat16, and cast back."""

    def forward(module: Any, original: Any, x: torch.Tensor) -> Any:
        return original(x.bfloat16().to(x.dtype)).bfloat16().to(x.dtype)

    variant.replace_forward("norm middle", forward)


@fault(starts="attention first", causes="code")
def attention_in_bfloat16(variant: Variant) -> None:
    """Cast queries, keys and values to bfloat16 around the attention function of all layers."""

    def attend(original: Any, module: Any, *qkv: torch.Tensor, **kwargs: Any) -> Any:
        mask = kwargs.pop("attention_mask", None)
        bias = kwargs.pop("position_bias", None)
        if mask is not None and mask.is_floating_point():
            mask = mask.bfloat16()
        if bias is not None:
            kwargs["position_bias"] = bias.bfloat16()
        half = [tensor.bfloat16() for tensor in qkv]
        value, weights = original(module, *half, mask, **kwargs)
        return value.to(qkv[0].dtype), weights

    replace_attention(variant, "attention", None, attend)


@fault(starts="activation middle", causes="code")
def one_activation_in_float16(variant: Variant) -> None:
    """Compute one activation in float16, and cast back."""

    def forward(module: Any, original: Any, x: torch.Tensor) -> Any:
        return original(x.half()).to(x.dtype)

    variant.replace_forward("activation middle", forward)
