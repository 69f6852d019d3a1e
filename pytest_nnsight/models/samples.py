"""Synthetic images and audio as model inputs: the same numbers on every machine."""

from __future__ import annotations

import math
from typing import Any

import torch

from pytest_nnsight.models.random_weights import uniform

_SECOND = 16_000  # audio samples


def sample(module: torch.nn.Module, batch_size: int = 1) -> dict[str, torch.Tensor]:
    """Return synthetic inputs besides text, in the shapes that the model's config names.

    Empty for a model that takes only text, and if the shape is not known.
    """
    config = getattr(module, "config", None)
    name = str(getattr(module, "main_input_name", ""))
    shapes = {
        "pixel_values": _image_shape(getattr(config, "vision_config", config)),
        "input_features": _feature_shape(config),
        "input_values": (_SECOND,),
    }
    if hasattr(config, "vision_config"):
        name = "pixel_values"
    shape = shapes.get(name)
    if shape is None:
        return {}
    numbers = torch.from_numpy(uniform(name, batch_size * math.prod(shape)))
    return {name: numbers.reshape(batch_size, *shape)}


def _image_shape(config: Any) -> tuple[int, ...] | None:
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    if isinstance(size, int):
        size = (size, size)
    return (channels, *size) if isinstance(size, list | tuple) else None


def _feature_shape(config: Any) -> tuple[int, ...] | None:
    """Return the shape of Whisper's input features; its encoder halves their length."""
    bins, length = (
        getattr(config, name, None) for name in ("num_mel_bins", "max_source_positions")
    )
    return (bins, 2 * length) if isinstance(bins, int) and isinstance(length, int) else None


def image_token_ids(module: torch.nn.Module) -> list[int]:
    """Return the token ids that stand for an image in a prompt; empty if the config has none."""
    config = getattr(module, "config", None)
    names = ("image_token_id", "image_token_index")
    token = next((getattr(config, name) for name in names if hasattr(config, name)), None)
    count = getattr(config, "image_seq_length", None)
    return [token] * count if isinstance(token, int) and isinstance(count, int) else []
