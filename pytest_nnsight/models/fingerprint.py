"""Weights -> fingerprints: which parameters differ from those a golden was made with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


def fingerprint_parameters(model: torch.nn.Module) -> dict[str, str]:
    """Return 16 hex digits per parameter and saved buffer, over dtype, shape and exact bytes.

    Tied parameters appear once, under the first of their names. Meta tensors (offloaded weights)
    are fingerprinted by shape alone.
    """
    return {name: _digest(tensor) for name, tensor in _saved_tensors(model)}


def weights_fingerprint(parameters: Mapping[str, str]) -> str:
    """Return 16 hex digits over all parameters of a model."""
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(parameters.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _saved_tensors(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    saved = set(model.state_dict(keep_vars=True))
    tensors: list[tuple[str, torch.Tensor]] = list(model.named_parameters())
    tensors += [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
    return tensors


def _digest(tensor: torch.Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if tensor.device.type != "meta" and tensor.numel():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()[:16]
