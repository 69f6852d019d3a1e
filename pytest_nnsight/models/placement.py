"""Where a model's weights go: a word, a device, or a map as accelerate takes it, with disk."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
    # The pipeline that nnsight 0.8 loads by takes the first of them for the device it computes on.
    return dict(sorted(placed.items(), key=lambda item: item[1] == "disk"))


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


def check_placed(placed: Any, module: torch.nn.Module) -> None:
    """Raise `UsageError` for a map that a model was placed by, and that does not do for it.

    A name that is none of the model's has no effect. nnsight takes inputs to where the first
    weights are, which therefore must be somewhere.
    """
    names = [name for name, _ in module.named_modules()]
    parameters = dict(module.named_parameters())
    for name in placed if isinstance(placed, dict) else ():
        if name not in names and name not in parameters:
            raise UsageError(
                f"device map: {name!r} is no module of the model; "
                f"nearest: {suggest(name, [path for path in names if path])}"
            )
    first = next(iter(parameters), "")
    if first and parameters[first].is_meta:
        raise UsageError(
            f"device map: {first} is put off, but nnsight needs to see where a model's first "
            f"weights are; keep {first.rpartition('.')[0]} on a device"
        )


@contextmanager
def offload_folder(placed: Any) -> Iterator[Folder]:
    """Make a folder for weights on disk that are not in safetensors files, which stay there.

    It is removed with the model that is `Folder.of`, or where none came of it.
    """
    needed = isinstance(placed, dict) and "disk" in placed.values()
    folder = Folder(tempfile.mkdtemp(prefix="pytest-nnsight-weights-") if needed else None)
    try:
        yield folder
    except BaseException:
        folder.remove()
        raise


@dataclass(frozen=True, slots=True)
class Folder:
    """Where a model reads weights from, if it does."""

    path: str | None

    def of(self, module: torch.nn.Module) -> None:
        """Keep the folder for as long as the model is there."""
        weakref.finalize(module, self.remove)

    def remove(self) -> None:
        """Remove the folder with what is in it."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)


def place(module: torch.nn.Module, text: str) -> torch.nn.Module:
    """Move a model that was made in memory to where it is wanted."""
    import torch

    placed = parse_map(text)
    if isinstance(placed, dict):
        import accelerate

        check_devices(placed)
        with offload_folder(placed) as folder:
            moved: torch.nn.Module = accelerate.dispatch_model(
                module, placed, offload_dir=folder.path
            )
            check_placed(placed, module)
        folder.of(moved)
        return moved
    if placed not in _PLACEMENTS:
        return module.to(placed)
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is not None and accelerator.is_available():
        return module.to(str(accelerator.current_accelerator()))
    return module.to("cuda" if torch.cuda.is_available() else "cpu")
