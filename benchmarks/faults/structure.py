"""Faults in the structure: residuals, norms, order, activations, dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

from benchmarks.faults.fault import fault
from benchmarks.faults.roles import submodule
from benchmarks.faults.variant import Variant


def change_output(
    variant: Variant, location: str, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> None:
    """Return ``change(output, input)`` from a module, or as first element of its tuple."""

    def forward(module: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        value = original(*args, **kwargs)
        entered = args[0] if args else next(iter(kwargs.values()))
        if isinstance(value, tuple):
            return (change(value[0], entered), *value[1:])
        return change(value, entered)

    variant.replace_forward(location, forward)


def reorder_layers(variant: Variant, order: Callable[[list[Any]], list[Any]]) -> None:
    """Run other layers, or in another order, without moving them in the module tree."""
    first = variant.at("layer first")
    iterate = torch.nn.ModuleList.__iter__

    def reordered(modules: torch.nn.ModuleList) -> Iterator[Any]:
        items = list(iterate(modules))
        return iter(order(items) if items and items[0] is first else items)

    variant.hold(mock.patch.object(torch.nn.ModuleList, "__iter__", reordered))


def replace_norm(variant: Variant, location: str, norm: Callable[[Any, torch.Tensor], Any]) -> None:
    """Replace a norm by ``norm(module, x)``."""
    variant.replace_forward(location, lambda module, original, x: norm(module, x))


@fault(starts="layer middle", causes="code")
def no_residual(variant: Variant) -> None:
    """Leave the residual out of a layer's output."""
    change_output(variant, "layer middle", lambda out, entered: out - entered)


@fault(starts="layer middle", causes="code")
def a_larger_residual(variant: Variant) -> None:
    """Add a thousandth of the residual once more."""
    change_output(variant, "layer middle", lambda out, entered: out + 1e-3 * entered)


@fault(starts="layer last", causes="code")
def a_layer_s_output_scaled(variant: Variant) -> None:
    """Scale a layer's output by 1 + 1e-4."""
    change_output(variant, "layer last", lambda out, entered: out * (1 + 1e-4))


@fault(starts="layer middle", causes="code")
def a_residual_clamped(variant: Variant) -> None:
    """Clamp a layer's output to nine tenths of its range, as code for float16 does."""
    change_output(variant, "layer middle", lambda out, _: out.clamp(max=0.9 * float(out.max())))


@fault(starts="mlp middle", causes="code")
def an_mlp_scaled(variant: Variant) -> None:
    """Scale an MLP's output by 1.001."""
    change_output(variant, "mlp middle", lambda out, _: out * 1.001)


@fault(starts="layer middle", causes="code", families=("llama",))
def attention_and_mlp_in_parallel(variant: Variant) -> None:
    """Give the MLP the input of the attention, as GPT-J does."""

    def forward(module: Any, original: Any, hidden_states: Any, **kwargs: Any) -> Any:
        attended, _ = module.self_attn(module.input_layernorm(hidden_states), **kwargs)
        read = module.post_attention_layernorm(hidden_states)
        return hidden_states + attended + module.mlp(read)

    variant.replace_forward("layer middle", forward)


@fault(starts="layer middle", causes="code", families=("gpt2",))
def attention_and_mlp_in_parallel_too(variant: Variant) -> None:
    """Give GPT-2's MLP the input of the attention."""

    def forward(
        module: Any, original: Any, x: Any, cache: Any, mask: Any, *_: Any, **kw: Any
    ) -> Any:
        kw.pop("encoder_attention_mask", None)
        attended, _ = module.attn(module.ln_1(x), past_key_values=cache, attention_mask=mask, **kw)
        return x + attended + module.mlp(module.ln_2(x))

    variant.replace_forward("layer middle", forward)


@fault(starts="mlp middle", causes="code", families=("llama",))
def the_activation_on_the_other_branch(variant: Variant) -> None:
    """Apply a gated MLP's activation to the other branch."""

    def forward(module: Any, original: Any, x: Any) -> Any:
        return module.down_proj(module.gate_proj(x) * module.act_fn(module.up_proj(x)))

    variant.replace_forward("mlp middle", forward)


@fault(starts="activation middle", causes="code", families=("gpt2", "bert"))
def one_gelu_approximated_or_not(variant: Variant) -> None:
    """Use erf for tanh, or tanh for erf, in one MLP, without changing the config."""
    how = "none" if variant.roles.family == "gpt2" else "tanh"
    replace_norm(
        variant,
        "activation middle",
        lambda _, x: torch.nn.functional.gelu(x, approximate=how),
    )


@fault(starts="activation middle", causes="code", families=("llama",))
def a_sigmoid_of_another_slope(variant: Variant) -> None:
    """Use x * sigmoid(1.702 x) for x * sigmoid(x) in one MLP."""
    replace_norm(variant, "activation middle", lambda _, x: x * torch.sigmoid(1.702 * x))


@fault(starts="final_norm", causes="code")
def the_final_norm_skipped(variant: Variant) -> None:
    """Return the input of the final norm."""
    replace_norm(variant, "final_norm", lambda _, x: x)


@fault(starts="second_norm middle", causes="code")
def a_norm_applied_twice(variant: Variant) -> None:
    """Apply a norm twice."""
    variant.replace_forward("second_norm middle", lambda _, original, x: original(original(x)))


@fault(starts="norm first", causes="code", families=("llama", "t5"))
def an_rms_norm_that_centres(variant: Variant) -> None:
    """Subtract the mean in one RMS norm, as a layer norm does."""

    def norm(module: Any, x: torch.Tensor) -> Any:
        centred = x - x.mean(-1, keepdim=True)
        square = centred.square().mean(-1, keepdim=True)
        return module.weight * centred * torch.rsqrt(square + module.variance_epsilon)

    replace_norm(variant, "norm first", norm)


@fault(starts="norm first", causes="code", families=("gpt2", "bert"))
def a_layer_norm_with_the_unbiased_variance(variant: Variant) -> None:
    """Divide by n - 1 in one layer norm."""

    def norm(module: Any, x: torch.Tensor) -> Any:
        centred = x - x.mean(-1, keepdim=True)
        variance = x.var(-1, keepdim=True, unbiased=True)
        return centred * torch.rsqrt(variance + module.eps) * module.weight + module.bias

    replace_norm(variant, "norm first", norm)


@fault(starts="norm middle", causes="code", families=("llama", "t5"))
def an_epsilon_outside_the_root(variant: Variant) -> None:
    """Add the epsilon outside the square root, a hundred times larger."""

    def norm(module: Any, x: torch.Tensor) -> Any:
        root = x.square().mean(-1, keepdim=True).sqrt()
        return module.weight * x / (root + 100 * module.variance_epsilon)

    replace_norm(variant, "norm middle", norm)


@fault(starts="embedding", causes="code")
def embeddings_scaled(variant: Variant) -> None:
    """Multiply embeddings by the square root of the width, as some models do."""
    width = variant.module.config.hidden_size
    change_output(variant, "embedding", lambda out, _: out * width**0.5)


@fault(
    starts="model", causes="code", needs=lambda module: module.get_output_embeddings() is not None
)
def logits_capped(variant: Variant) -> None:
    """Soft-cap the logits at thirty in the model's own forward."""

    def forward(module: Any, original: Any, *args: Any, **kwargs: Any) -> Any:
        value = original(*args, **kwargs)
        value.logits = 30 * torch.tanh(value.logits / 30)
        return value

    variant.replace_forward("model", forward)


@fault(starts="loop", causes=("code", "structure"))
def two_layers_run_in_another_order(variant: Variant) -> None:
    """Run the last two layers in reverse order; the module tree is unchanged."""
    reorder_layers(variant, lambda layers: [*layers[:-2], layers[-1], layers[-2]])


@fault(starts=("loop", "layer last"), causes=("code", "structure"))
def a_layer_not_run(variant: Variant) -> None:
    """Skip the last layer; config and module tree are unchanged."""
    reorder_layers(variant, lambda layers: layers[:-1])


@fault(starts=("loop", "layer middle"), causes=("code", "structure"))
def a_layer_run_twice(variant: Variant) -> None:
    """Run the middle layer twice."""
    middle = variant.roles.layers // 2
    reorder_layers(variant, lambda layers: [*layers[: middle + 1], *layers[middle:]])


@fault(starts="entry previous", causes=("weights", "structure"))
def two_layers_swapped_in_the_tree(variant: Variant) -> None:
    """Swap two neighbouring layers in the module tree, so that their weights swap names."""
    path, middle = variant.roles.path("layer middle"), variant.roles.layers // 2
    layers = submodule(variant.module, path.rpartition(".")[0])
    layers[middle - 1], layers[middle] = layers[middle], layers[middle - 1]


@fault(starts="dropout", causes="code")
def dropout_left_on(variant: Variant) -> None:
    """Leave the model in training mode."""
    variant.module.train()
    torch.manual_seed(0)


@fault(starts="dropout", causes="code")
def one_dropout_left_on(variant: Variant) -> None:
    """Leave the dropout after the embeddings on."""
    variant.at("dropout").train()
    torch.manual_seed(0)


@fault(starts=("around_mlp middle", "mlp middle"), causes="code")
def a_forward_hook(variant: Variant) -> None:
    """Scale an MLP's output in a torch hook, which nnsight sees from the next module on."""
    hook = variant.at("mlp middle").register_forward_hook(lambda module, args, out: out * 1.01)
    variant.on_exit(hook.remove)


@fault(starts="down middle", causes=("structure", "weights"))
def an_adapter_around_a_matrix(variant: Variant) -> None:
    """Put a low-rank adapter around a linear layer, as fine-tuning libraries do."""
    path = variant.roles.path("down middle")
    parent, _, name = path.rpartition(".")
    inner = variant.at("down middle")
    setattr(variant.module.get_submodule(parent), name, Adapter(inner, variant.config.hidden_size))


class Adapter(torch.nn.Module):
    """A linear layer with a low-rank matrix of rank two."""

    def __init__(self, base: torch.nn.Module, width: int) -> None:
        super().__init__()
        self.base_layer = base
        generator = torch.Generator().manual_seed(0)
        self.up = torch.nn.Parameter(torch.randn(width, 2, generator=generator) * 0.01)

    @property
    def weight(self) -> Any:
        """The base layer's weight, whose dtype T5 reads."""
        return self.base_layer.weight

    def forward(self, x: torch.Tensor) -> Any:
        """Add the adapter's output, computed from the first two input channels."""
        return self.base_layer(x) + x[..., :2] @ self.up.t()
