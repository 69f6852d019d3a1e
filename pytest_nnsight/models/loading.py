"""Load a model through nnsight, with one-line errors that say what to do."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.errors import LoadError, NnsightPluginError, one_line
from pytest_nnsight.models import checkpoint, placement, tiny
from pytest_nnsight.models.spec import LoadOptions, ModelSpec


def load(
    spec: ModelSpec, options: LoadOptions, say: Callable[[str], None], shows_bars: bool = False
) -> Any:
    """Return the dispatched nnsight model of ``spec`` in eval mode.

    ``say`` is called with progress messages, which include line breaks. ``shows_bars`` keeps the
    progress bars of transformers. Raise `LoadError`, with a message of one line, if loading fails.
    """
    say(f"\nnnsight: loading {spec.public}" + (f"@{spec.revision}" if spec.revision else ""))
    start = time.perf_counter()
    with _quiet_transformers(shows_bars), _readable_errors(spec):
        model = _load(spec, options)
    module = nnsight_api.torch_module(model)
    module.eval()
    parameters = sum(p.numel() for p in module.parameters())
    seconds = time.perf_counter() - start
    say(f" ... {type(module).__name__}, {parameters / 1e6:.1f} M parameters, {seconds:.1f} s\n")
    return model


def _load(spec: ModelSpec, options: LoadOptions) -> Any:
    is_skeleton = options.device_map == "meta"
    if spec.kind == "built-in":
        dtype = torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)
        module, tokenizer = tiny.build(spec.source.partition(":")[2], dtype, options.attn)
        if not is_skeleton:
            return nnsight_api.wrap(placement.place(module, options.device_map), tokenizer)
        module.to("meta")
        module.tie_weights()  # type: ignore[operator]  # moving to the meta device unties them
        return nnsight_api.wrap_skeleton(module, tokenizer)
    if is_skeleton:
        return nnsight_api.wrap_skeleton(*checkpoint.build_skeleton(spec, options))
    return checkpoint.load(spec, options)


@contextmanager
def _readable_errors(spec: ModelSpec) -> Iterator[None]:
    """Turn errors of transformers and other libraries into `LoadError`, which says what to do."""
    try:
        yield
    except NnsightPluginError:
        raise
    except Exception as error:
        raise LoadError(f"cannot load {spec.public}: {_reason(spec, error)}") from error


def _reason(spec: ModelSpec, error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    if isinstance(error, MemoryError):
        return "not enough memory; try --nnsight-dtype bfloat16 or --nnsight-device-map auto"
    if spec.kind == "hub" and ("LocalEntryNotFound" in text or "offline" in text.lower()):
        return (
            "not in the local cache, and the model hub cannot be reached (offline); "
            "run once with network, or give a local folder"
        )
    if spec.kind == "hub" and ("connect" in text.lower() or "resolve" in text.lower()):
        return (
            "the model hub cannot be reached and the model is not in the local cache; "
            "check the network, or give a local folder"
        )
    if "RepositoryNotFound" in text or "is not a valid model identifier" in text:
        return "the model hub has no such model, or it is private; check the name, or log in"
    if "trust_remote_code" in text:
        return "it brings its own code; read it, then allow it with --nnsight-trust-remote-code"
    if type(error).__name__ == "SafetensorError" or "header" in text.lower():
        return f"its weights file is damaged ({one_line(error, 120)}); fetch the model again"
    if "Tokenizer class" in text and "does not exist" in text:
        # transformers 5 writes TokenizersBackend into every tokenizer_config.json that it saves.
        return (
            f"{one_line(error).partition(' does not')[0]} is unknown to transformers "
            f"{metadata.version('transformers')}: the folder was saved by a newer one; take the "
            "tokenizer_config.json that the model was published with"
        )
    # The message of transformers' error may hold the traceback of the original one.
    originals = text.partition("original errors")[2]
    causes = re.findall(r"^[\w.]+(?:Error|Exception|Interrupt): .+", originals, re.MULTILINE)
    return one_line(causes[-1]) if causes else f"{type(error).__name__}: {one_line(error)}"


@contextmanager
def _quiet_transformers(shows_bars: bool) -> Iterator[None]:
    """Keep transformers' messages and progress bars out of the test report during loading."""
    import transformers

    verbosity = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.ERROR)
    if not shows_bars:
        transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
