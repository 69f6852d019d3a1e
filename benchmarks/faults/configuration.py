"""Faults in the configuration, and the same values changed in the code only."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.faults.fault import fault
from benchmarks.faults.variant import Variant

_EPSILONS = ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")
_ACTIVATIONS = ("hidden_act", "activation_function", "dense_act_fn")


def key_of(config: Any, names: tuple[str, ...]) -> str:
    """Return those of some names that a config has."""
    return next(name for name in names if hasattr(config, name))


def scale_epsilon(variant: Variant, factor: float) -> None:
    """Multiply the epsilon of all norms, which counts as at least 1e-8."""
    name = key_of(variant.config, _EPSILONS)
    setattr(variant.config, name, max(getattr(variant.config, name), 1e-8) * factor)


def set_activation(variant: Variant, name: str) -> None:
    """Set the activation of all MLPs."""
    setattr(variant.config, key_of(variant.config, _ACTIVATIONS), name)


def set_rotary_base(config: Any, factor: float) -> None:
    """Multiply the base of the rotary frequencies in a config."""
    parameters = dict(config.rope_parameters)
    parameters["rope_theta"] *= factor
    config.rope_parameters = parameters


@fault(starts="norm first", causes="config", families=("llama", "gpt2", "t5"))
def a_smaller_epsilon(variant: Variant) -> None:
    """Divide the epsilon of all norms by ten: 1e-5 is 1e-6."""
    scale_epsilon(variant, 0.1)


@fault(starts="norm first", causes="config", families=("llama", "gpt2", "t5"))
def a_larger_epsilon(variant: Variant) -> None:
    """Multiply the epsilon of all norms by a hundred."""
    scale_epsilon(variant, 100)


@fault(starts="embedding_norm", causes="config", families=("bert",))
def another_epsilon_of_layer_norms(variant: Variant) -> None:
    """Read BERT's epsilon of 1e-12 as 1e-5, torch's default."""
    variant.config.layer_norm_eps = 1e-5


@fault(starts="positions", causes="config", families=("llama",))
def another_rotary_base(variant: Variant) -> None:
    """Multiply the rotary base by ten."""
    set_rotary_base(variant.config, 10)


@fault(starts="positions", causes="config", families=("llama",))
def a_slightly_other_rotary_base(variant: Variant) -> None:
    """Multiply the rotary base by 1.0001."""
    set_rotary_base(variant.config, 1.0001)


@fault(starts="positions", causes="config", families=("llama",))
def positions_scaled_by_two(variant: Variant) -> None:
    """Request linear scaling of the rotary positions."""
    parameters = dict(variant.config.rope_parameters)
    variant.config.rope_parameters = parameters | {"rope_type": "linear", "factor": 2.0}


@fault(starts="activation first", causes="config")
def another_activation(variant: Variant) -> None:
    """Use another activation: ReLU, or GELU in T5, which has ReLU."""
    set_activation(variant, "gelu" if variant.roles.family == "t5" else "relu")


@fault(starts="activation first", causes="config", families=("gpt2", "bert"))
def gelu_approximated_or_not(variant: Variant) -> None:
    """Use erf for the tanh approximation of GELU, or the reverse."""
    set_activation(variant, "gelu" if variant.roles.family == "gpt2" else "gelu_new")


@fault(starts="attention first", causes="config", families=("gpt2",))
def attention_not_scaled(variant: Variant) -> None:
    """Do not divide the attention scores by the root of the head's width."""
    variant.config.scale_attn_weights = False


@fault(starts="attention middle", causes="config", families=("gpt2",))
def attention_scaled_by_layer(variant: Variant) -> None:
    """Also divide the attention scores by the layer's number; with two layers, in the second."""
    variant.config.scale_attn_by_inverse_layer_idx = True


@fault(starts="attention first", causes="config", families=("gpt2", "bert"))
def half_as_many_heads(variant: Variant) -> None:
    """Cut the same matrices into half as many heads."""
    variant.config.num_attention_heads //= 2


@fault(
    starts=("loop", "layer last"),
    causes=("config", "structure", "weights"),
    families=("llama", "gpt2", "bert"),
)
def one_layer_less(variant: Variant) -> None:
    """Leave out the last layer, in config and model."""
    variant.config.num_hidden_layers -= 1


@fault(starts="attention first", causes="config", families=("t5",))
def a_shorter_distance(variant: Variant) -> None:
    """Halve the largest distance that T5's relative positions distinguish."""
    variant.config.relative_attention_max_distance //= 2


@fault(starts="norm middle", causes="code", families=("llama", "gpt2", "t5"))
def an_epsilon_that_is_not_the_config_s(variant: Variant) -> None:
    """Run one norm with a hundred times its epsilon, without changing the config."""
    norm = variant.at("norm middle")
    name = "eps" if hasattr(norm, "eps") else "variance_epsilon"
    setattr(norm, name, getattr(norm, name) * 100)


@fault(starts="positions", causes="code", families=("llama",))
def a_rotary_base_that_is_not_the_config_s(variant: Variant) -> None:
    """Rotate with a tenth of the base, as transformers 4 does with a folder of transformers 5."""
    rotary, base = variant.at("positions"), variant.config.rope_parameters["rope_theta"]
    exponent = 1 - math.log(10) / math.log(base)
    rotary.inv_freq = rotary.inv_freq**exponent


@fault(starts="attention middle", causes="code")
def attention_scaled_by_a_thousandth(variant: Variant) -> None:
    """Scale the attention scores of one layer by 1.001."""
    variant.at("attention middle").scaling *= 1.001
