"""Weights -> fingerprints: which parameters differ from those a golden was made with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


def fingerprint_parameters(model: torch.nn.Module) -> dict[str, str]:
    """Return the digest of each parameter and saved buffer, by name."""
    return {name: digest(tensor) for name, tensor in saved_tensors(model).items()}


def weights_fingerprint(parameters: Mapping[str, str]) -> str:
    """Return 16 hex digits over all parameters of a model."""
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(parameters.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def saved_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and saved buffers; tied ones once, under the first of their names."""
    saved = set(model.state_dict(keep_vars=True))
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in saved}
    return tensors


def digest(tensor: torch.Tensor) -> str:
    """Return 16 hex digits over dtype, shape and exact bytes.

    A meta tensor (an offloaded weight) is fingerprinted by its shape alone.
    """
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if tensor.device.type != "meta" and tensor.numel():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(raw.numpy().data)
    return found.hexdigest()[:16]
