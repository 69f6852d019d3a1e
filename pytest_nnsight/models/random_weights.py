"""Weights of the built-in models: the same bits on every machine, whatever transformers calls them.

A weight depends on its parameter's name and position alone: uniform numbers from numpy's Philox
counter, keyed by the name. Only the raw words are used, which numpy keeps stable between versions.
The names are those of transformers 4 and published checkpoints. Later releases renamed some
parameters and store all experts of a layer in one; the numbers are the same.
The scales are those of a trained model, not of an initialisation, so that any change reaches the
logits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import numpy as np
import torch

_PUBLISHED = (
    (r"^vit\.layers\.", "vit.encoder.layer."),
    (r"(^vit\..*attention)\.q_proj\.", r"\1.attention.query."),
    (r"(^vit\..*attention)\.k_proj\.", r"\1.attention.key."),
    (r"(^vit\..*attention)\.v_proj\.", r"\1.attention.value."),
    (r"(^vit\..*attention)\.o_proj\.", r"\1.output.dense."),
    (r"(^vit\..*)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"(^vit\..*)\.mlp\.fc2\.", r"\1.output.dense."),
    (r"vision_tower\.(?!vision_model)", "vision_tower.vision_model."),
    (r"\.mlp\.(gate\.weight|experts\.)", r".block_sparse_moe.\1"),
)
"""Pairs of a pattern of transformers 5 and the published name."""
_EXPERTS = re.compile(r"(.*\.experts)\.(gate_up_proj|down_proj)")


def fill(model: torch.nn.Module) -> None:
    """Overwrite every parameter with numbers that depend only on its name and shape."""
    with torch.no_grad():
        for name, part in published(model):
            numbers = uniform(name, part.numel()).reshape(tuple(part.shape))
            part.copy_(torch.from_numpy(_scaled(name, numbers)))


def published(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights as in a published checkpoint: its names, one tensor for each expert."""
    for name, parameter in model.named_parameters():
        for pattern, replacement in _PUBLISHED:
            name = re.sub(pattern, replacement, name)
        experts = _EXPERTS.fullmatch(name)
        if experts is None:
            yield name, parameter
            continue
        for index, expert in enumerate(parameter):
            parts = {"w2": expert}
            if experts[2] == "gate_up_proj":
                parts = dict(zip(("w1", "w3"), expert.chunk(2), strict=True))
            for part, tensor in parts.items():
                yield f"{experts[1]}.{index}.{part}.weight", tensor


def uniform(name: str, count: int) -> np.ndarray:
    """Return ``count`` float32 numbers in [-1, 1), of 24 bits, that depend only on ``name``."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    words = np.random.Philox(key=key).random_raw(count)
    return ((words >> np.uint64(40)).astype(np.float64) * 2.0**-23 - 1.0).astype(np.float32)


def _scaled(name: str, numbers: np.ndarray) -> np.ndarray:
    """Scale each kind of parameter as usual; matrices preserve the norm of their input."""
    if name.endswith("bias"):
        return numbers * np.float32(0.125)
    if numbers.ndim <= 1 or not numbers.size:
        return numbers * np.float32(0.25) + np.float32(1.0)
    is_kernel = numbers.ndim > 2 and name.endswith("weight")
    if not is_kernel and ("wte" in name or "embed" in name or "shared" in name):
        return numbers
    if "wpe" in name or "relative_attention_bias" in name:
        return numbers * np.float32(0.5)
    # A power of two near sqrt(3 / fan in): exact in every half type's exponent.
    fan_in = numbers.shape[0] if "c_" in name else numbers[0].size
    return numbers * np.float32(2.0 ** round(np.log2((3.0 / fan_in) ** 0.5)))
