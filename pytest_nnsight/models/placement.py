"""Where a model's weights go: a word, a device, or a map as accelerate takes it, with disk."""

from __future__ import annotations

import json
import tempfile
import weakref
from typing import TYPE_CHECKING, Any

from pytest_nnsight.errors import UsageError, suggest

if TYPE_CHECKING:
    import torch

_PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")


def parse_map(text: str) -> Any:
    """Return what accelerate takes: a word, a device, or a map written as JSON.

    Raise `UsageError` for what can be seen to be wrong without a model.
    """
    if not text.startswith("{"):
        if text == "disk":
            raise _all_on_disk()
        return text
    try:
        placed = json.loads(text)
    except ValueError as error:
        raise UsageError(f"device map {text!r} is not JSON: {error}") from error
    for name, device in placed.items():
        if not isinstance(device, str | int) or isinstance(device, bool):
            raise UsageError(f"device map: {name!r} goes to {device!r}, which is no device")
    if all(device == "disk" for device in placed.values()):
        raise _all_on_disk()
    return placed


def _all_on_disk() -> UsageError:
    return UsageError(
        "device map: on disk alone nothing can compute; leave a module on cpu or cuda:0, such as "
        '{"model.embed_tokens": "cpu", "model.layers": "disk", ...}'
    )


def check_devices(placed: Any) -> None:
    """Raise `UsageError` for a device that torch does not know, whether it is there or not."""
    import torch

    for name, device in placed.items() if isinstance(placed, dict) else ():
        if device == "disk" or isinstance(device, int):
            continue
        try:
            torch.device(device)
        except RuntimeError as error:
            raise UsageError(
                f"device map: {name!r} goes to {device!r}, which is no device; "
                f"nearest: {suggest(device, ('cpu', 'disk', 'cuda:0', 'mps', 'xpu:0'))}"
            ) from error


def check_names(placed: Any, module: torch.nn.Module) -> None:
    """Raise `UsageError` for a name in a map that is none of a model's: it would have no effect."""
    if not isinstance(placed, dict):
        return
    names = [name for name, _ in module.named_modules()]
    parameters = {name for name, _ in module.named_parameters()}
    for name in placed:
        if name not in names and name not in parameters:
            raise UsageError(
                f"device map: {name!r} is no module of the model; "
                f"nearest: {suggest(name, [path for path in names if path])}"
            )


def offload_folder(placed: Any) -> tempfile.TemporaryDirectory[str] | None:
    """Make a folder for weights on disk that are not in safetensors files, which stay there."""
    if not isinstance(placed, dict) or "disk" not in placed.values():
        return None
    return tempfile.TemporaryDirectory(prefix="pytest-nnsight-", ignore_cleanup_errors=True)


def keep_with(folder: tempfile.TemporaryDirectory[str] | None, module: torch.nn.Module) -> None:
    """Remove a folder once the model is gone that reads from it."""
    if folder is not None:
        weakref.finalize(module, folder.cleanup)


def place(module: torch.nn.Module, text: str) -> torch.nn.Module:
    """Move a model that was made in memory to where it is wanted."""
    import torch

    placed = parse_map(text)
    if isinstance(placed, dict):
        import accelerate

        check_devices(placed)
        check_names(placed, module)
        folder = offload_folder(placed)
        moved: torch.nn.Module = accelerate.dispatch_model(
            module, placed, offload_dir=folder.name if folder else None
        )
        keep_with(folder, module)
        return moved
    if placed not in _PLACEMENTS:
        return module.to(placed)
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is not None and accelerator.is_available():
        return module.to(str(accelerator.current_accelerator()))
    return module.to("cuda" if torch.cuda.is_available() else "cpu")
