"""Place a model's weights: on a device, or by a device map of accelerate, with disk."""

from __future__ import annotations

import json
import weakref
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pytest_nnsight.errors import UsageError, suggest

if TYPE_CHECKING:
    import torch

_PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")


def parse_map(text: str) -> Any:
    """Return a device map for accelerate from a word, a device, or a map written as JSON.

    Raise `UsageError` for errors that can be found without a model.
    """
    try:
        placed = json.loads(text) if text.startswith("{") else {"": text}
    except ValueError as error:
        raise UsageError(f"device map {text!r} is not JSON: {error}") from error
    for name, device in placed.items():
        if not isinstance(device, str | int) or isinstance(device, bool):
            raise UsageError(f"device map: {name!r} goes to {device!r}, which is not a device")
    if all(device == "disk" for device in placed.values()):
        raise UsageError(
            "device map: nothing can compute if all modules are on disk; place one on cpu or "
            'cuda:0, as in {"model.embed_tokens": "cpu", "model.layers": "disk", ...}'
        )
    if not text.startswith("{"):
        return text
    # nnsight 0.8 loads by a pipeline, which computes on the first device of the map.
    return dict(sorted(placed.items(), key=lambda item: item[1] == "disk"))


def check_devices(placed: Any) -> None:
    """Raise `UsageError` for a device that torch does not know; it need not be present."""
    import torch

    for name, device in placed.items() if isinstance(placed, dict) else ():
        if device == "disk" or isinstance(device, int):
            continue
        try:
            torch.device(device)
        except RuntimeError as error:
            raise UsageError(
                f"device map: {name!r} goes to {device!r}, which is not a device; "
                f"nearest: {suggest(device, ('cpu', 'disk', 'cuda:0', 'mps', 'xpu:0'))}"
            ) from error


def check_placed(placed: Any, module: torch.nn.Module) -> None:
    """Raise `UsageError` if a model was placed by a map that does not fit it.

    A name that is not in the model has no effect. The first weights must be on a device, since
    nnsight moves inputs to their device.
    """
    names = [name for name, _ in module.named_modules()]
    parameters = dict(module.named_parameters())
    for name in placed if isinstance(placed, dict) else ():
        if name not in names and name not in parameters:
            raise UsageError(
                f"device map: {name!r} is not a module of the model; "
                f"nearest: {suggest(name, [path for path in names if path])}"
            )
    first = next(iter(parameters), "")
    if first and parameters[first].is_meta:
        raise UsageError(
            f"device map: {first} is offloaded, but nnsight moves inputs to the device of a "
            f"model's first weights; keep {first.rpartition('.')[0]} on a device"
        )


def offload_folder(placed: Any, cleanup: ExitStack) -> str | None:
    """Make a folder for weights on disk, which ``cleanup`` removes; ``None`` if none is needed.

    Weights in safetensors files are read from there instead.
    """
    if not isinstance(placed, dict) or "disk" not in placed.values():
        return None
    folder = TemporaryDirectory(prefix="pytest-nnsight-weights-", ignore_cleanup_errors=True)
    return cleanup.enter_context(folder)


def remove_with(module: torch.nn.Module, cleanup: ExitStack) -> None:
    """Remove the offload folder when the model is garbage-collected, instead of now."""
    weakref.finalize(module, cleanup.pop_all().close)


def place(module: torch.nn.Module, text: str) -> torch.nn.Module:
    """Move a model that was built in memory to its devices."""
    import torch

    placed = parse_map(text)
    if isinstance(placed, dict):
        import accelerate

        check_devices(placed)
        with ExitStack() as cleanup:
            folder = offload_folder(placed, cleanup)
            moved: torch.nn.Module = accelerate.dispatch_model(module, placed, offload_dir=folder)
            check_placed(placed, module)
            remove_with(moved, cleanup)
        return moved
    if placed not in _PLACEMENTS:
        return module.to(placed)
    has_accelerator = torch.accelerator.is_available()
    return module.to(str(torch.accelerator.current_accelerator()) if has_accelerator else "cpu")
