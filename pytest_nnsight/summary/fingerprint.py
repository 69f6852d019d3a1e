"""Fingerprint weights, to tell which parameters differ from those a golden was made with."""

from __future__ import annotations

import hashlib
from collections import UserDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
import xxhash


def fingerprint_parameters(model: torch.nn.Module) -> dict[str, str]:
    """Return the digest of each parameter and saved buffer."""
    return digests(saved_tensors(model))


def weights_fingerprint(parameters: Mapping[str, str]) -> str:
    """Return 16 hexadecimal digits over the digests of all parameters of a model."""
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(parameters.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class SavedTensors(UserDict[str, torch.Tensor]):
    """Tensors by name; an offloaded one is read from accelerate when it is looked up."""

    def __init__(
        self, tensors: dict[str, torch.Tensor], offloaded: Mapping[str, Mapping[str, torch.Tensor]]
    ) -> None:
        self.data, self.offloaded = tensors, offloaded

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.data[name]
        if tensor.device.type != "meta" or name not in self.offloaded:
            return tensor
        return self.offloaded[name][name.rpartition(".")[2]]


def saved_tensors(model: torch.nn.Module) -> SavedTensors:
    """Return the parameters and saved buffers; tied ones once, under the first of their names.

    Quantised weights are not parameters; a checkpoint stores several of them packed in one entry.
    """
    saved = model.state_dict(keep_vars=True)
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters())
    tensors |= {name: buffer for name, buffer in model.named_buffers() if name in saved}
    for name, value in saved.items():
        if isinstance(value, tuple):
            parts = {f"{name}[{index}]": part for index, part in enumerate(value)}
            tensors |= {at: part for at, part in parts.items() if isinstance(part, torch.Tensor)}
    return SavedTensors(tensors, _offloaded(model))


def _offloaded(model: torch.nn.Module) -> dict[str, Mapping[str, torch.Tensor]]:
    """Return, by parameter name, the mapping that accelerate's hook on its module reads from."""
    found: dict[str, Mapping[str, torch.Tensor]] = {}
    for path, part in model.named_modules():
        hook = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            weights = getattr(one, "weights_map", None)
            if weights is not None:
                names = (*part._parameters, *part._buffers)
                found |= {f"{path}.{key}" if path else key: weights for key in names}
    return found


def digests(
    tensors: Mapping[str, torch.Tensor], names: Iterable[str] | None = None
) -> dict[str, str]:
    """Return the digest of each tensor, or of those named, with as many threads as torch uses."""
    chosen = list(tensors if names is None else names)
    if torch.get_num_threads() == 1:
        return {name: digest(tensors[name]) for name in chosen}
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        found = threads.map(lambda name: digest(tensors[name]), chosen)
        return dict(zip(chosen, found, strict=True))


def digest(tensor: torch.Tensor) -> str:
    """Return 16 hexadecimal digits over dtype, shape and exact bytes.

    A meta tensor, of a model without weights, is fingerprinted by dtype and shape alone.
    """
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    if tensor.device.type != "meta" and tensor.numel():
        found.update(xxhash.xxh3_128_digest(_bytes_of(tensor.detach()).numpy().data))
    return found.hexdigest()[:16]


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """View a tensor as bytes on the host; only what is not contiguous is copied."""
    tensor = (tensor.dequantize() if tensor.is_quantized else tensor).cpu()
    plain = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
    pairs = torch.view_as_real(plain).reshape(-1) if plain.is_complex() else plain
    return pairs.view(torch.uint8)
