"""Pictures and sound to try a model on: the same made-up numbers on every machine."""

from __future__ import annotations

import math
from typing import Any

import torch

from pytest_nnsight.models.random_weights import uniform

_SECOND = 16_000  # samples of sound


def sample(module: torch.nn.Module, rows: int = 1) -> dict[str, torch.Tensor]:
    """Return what a model takes besides text, of the size that its config names.

    Empty for a model that takes text alone, and where the size is not known.
    """
    config = getattr(module, "config", None)
    name = str(getattr(module, "main_input_name", ""))
    shapes = {
        "pixel_values": _picture(getattr(config, "vision_config", config)),
        "input_features": _spectrogram(config),
        "input_values": (_SECOND,),
    }
    if hasattr(config, "vision_config"):
        name = "pixel_values"
    shape = shapes.get(name)
    if shape is None:
        return {}
    numbers = torch.from_numpy(uniform(name, rows * math.prod(shape)))
    return {name: numbers.reshape(rows, *shape)}


def _picture(config: Any) -> tuple[int, ...] | None:
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    if isinstance(size, int):
        size = (size, size)
    return (channels, *size) if isinstance(size, list | tuple) else None


def _spectrogram(config: Any) -> tuple[int, ...] | None:
    """Return the shape of the features of Whisper, whose encoder halves their length."""
    bins, length = (
        getattr(config, name, None) for name in ("num_mel_bins", "max_source_positions")
    )
    return (bins, 2 * length) if isinstance(bins, int) and isinstance(length, int) else None


def picture_ids(module: torch.nn.Module) -> list[int]:
    """Return the ids that stand for a picture in a prompt, where the config says how many."""
    config = getattr(module, "config", None)
    names = ("image_token_id", "image_token_index")
    token = next((getattr(config, name) for name in names if hasattr(config, name)), None)
    count = getattr(config, "image_seq_length", None)
    return [token] * count if isinstance(token, int) and isinstance(count, int) else []
