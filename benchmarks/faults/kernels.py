"""Kernels, threads and torch's settings: changes that no test should find."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.pytorch_utils import Conv1D

from benchmarks.faults.fault import benign
from benchmarks.faults.masks import make_mask, with_mask
from benchmarks.faults.positions import with_positions
from benchmarks.faults.prompts import as_ids
from benchmarks.faults.variant import Variant

_CAUSAL = ("gpt2", "llama")


@contextmanager
def setting(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Iterator[None]:
    """Set one of torch's global settings, and restore it on exit."""
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def threads(variant: Variant, count: int) -> None:
    """Run on a number of threads."""
    variant.hold(setting(torch.get_num_threads, torch.set_num_threads, count))


def split_linear(variant: Variant, multiply: Callable[..., torch.Tensor]) -> None:
    """Replace one linear layer by ``multiply(x, rows, bias)``."""

    def forward(module: Any, original: Any, x: torch.Tensor) -> torch.Tensor:
        rows = module.weight.t() if isinstance(module, Conv1D) else module.weight
        return multiply(x, rows, getattr(module, "bias", None))

    variant.replace_forward("down middle", forward)


@benign()
def nothing(variant: Variant) -> None:
    """Run a copy of the model in the same process."""


@benign()
def one_thread(variant: Variant) -> None:
    """Run on one thread."""
    threads(variant, 1)


@benign()
def two_threads(variant: Variant) -> None:
    """Run on two threads."""
    threads(variant, 2)


@benign()
def four_threads(variant: Variant) -> None:
    """Run on four threads."""
    threads(variant, 4)


@benign()
def eager_attention(variant: Variant) -> None:
    """Use transformers' own attention."""
    variant.config._attn_implementation = "eager"


@benign()
def the_math_kernel_of_attention(variant: Variant) -> None:
    """Use torch's plain kernel."""
    variant.hold(sdpa_kernel(SDPBackend.MATH))


@benign()
def the_flash_kernel_of_attention(variant: Variant) -> None:
    """Use torch's fused kernel."""
    variant.hold(sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], set_priority=True))


@benign(families=_CAUSAL)
def a_mask_that_is_written_out(variant: Variant) -> None:
    """Pass a mask to attention instead of a flag; it uses another kernel."""
    make_mask(variant, lambda query, key: key <= query)


@benign()
def without_onednn(variant: Variant) -> None:
    """Switch off oneDNN."""
    variant.hold(torch.backends.mkldnn.flags(enabled=False))


@benign()
def another_matmul_precision(variant: Variant) -> None:
    """Allow lower precision in matrix products, which this CPU does not have."""
    variant.hold(
        setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "high")
    )


@benign()
def deterministic_algorithms(variant: Variant) -> None:
    """Ask torch for deterministic algorithms."""
    variant.hold(
        setting(
            torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
        )
    )


@benign()
def denormals_flushed(variant: Variant) -> None:
    """Flush denormal numbers to zero."""
    torch.set_flush_denormal(True)
    variant.on_exit(torch.set_flush_denormal, False)


@benign()
def in_inference_mode(variant: Variant) -> None:
    """Run in torch's inference mode."""
    variant.hold(torch.inference_mode())


@benign()
def autocast_switched_off(variant: Variant) -> None:
    """Run inside an autocast that is off."""
    variant.hold(torch.autocast("cpu", enabled=False))


@benign()
def another_default_dtype(variant: Variant) -> None:
    """Make float64 torch's default dtype after the model was loaded."""
    variant.module.eval()
    variant.hold(setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64))


@benign()
def ids_in_place_of_text(variant: Variant) -> None:
    """Pass the token ids that the tokenizer returns."""
    variant.probe = as_ids(variant)


@benign()
def a_mask_of_ones(variant: Variant) -> None:
    """Pass the mask that a prompt without padding has."""
    variant.probe = with_mask(variant)


@benign(families=("gpt2", "llama", "bert"), kinds=("trace",))
def the_right_positions_passed(variant: Variant) -> None:
    """Pass the positions that the model would compute itself."""
    variant.probe = with_positions(variant)


@benign()
def one_linear_in_float64(variant: Variant) -> None:
    """Multiply with more precision in one module, and cast back."""
    split_linear(
        variant,
        lambda x, rows, bias: torch.nn.functional.linear(
            x.double(), rows.double(), None if bias is None else bias.double()
        ).to(x.dtype),
    )


@benign()
def one_linear_in_two_sums(variant: Variant) -> None:
    """Add up two half products, as two tensor-parallel ranks do."""

    def multiply(x: torch.Tensor, rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        half = rows.shape[1] // 2
        total = x[..., :half] @ rows[:, :half].t() + x[..., half:] @ rows[:, half:].t()
        return total if bias is None else total + bias

    split_linear(variant, multiply)


@benign()
def one_linear_token_by_token(variant: Variant) -> None:
    """Multiply one token at a time."""

    def multiply(x: torch.Tensor, rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        linear = torch.nn.functional.linear
        return torch.cat([linear(token, rows, bias) for token in torch.split(x, 1, -2)], -2)

    split_linear(variant, multiply)
