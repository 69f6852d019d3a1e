"""Load a model through nnsight, and say in one line why it could not be loaded."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.errors import LoadError, NnsightPluginError, UsageError, one_line
from pytest_nnsight.models import skeleton, tiny
from pytest_nnsight.models.spec import LoadOptions, ModelSpec

_PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")


def load(
    spec: ModelSpec, options: LoadOptions, say: Callable[[str], None], shows_bars: bool = False
) -> Any:
    """Return the dispatched nnsight model of ``spec`` in eval mode.

    ``say`` is told what is going on, with line breaks; ``shows_bars`` leaves the progress bars of
    transformers on, for a terminal. Raise `LoadError` with one line for every
    way in which loading fails.
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
    if options.device_map == skeleton.DEVICE:
        return skeleton.build(spec, options, _auto_class)
    if spec.kind == "built-in":
        dtype = torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)
        module, tokenizer = tiny.build(spec.source.partition(":")[2], dtype, options.attn)
        return nnsight_api.wrap(module.to(_device(options.device_map)), tokenizer)
    keywords: dict[str, Any] = {
        "device_map": _device_map(options.device_map),
        "dtype": options.dtype if options.dtype == "auto" else getattr(torch, options.dtype),
        "trust_remote_code": options.trust_remote_code,
    }
    if options.attn is not None:
        keywords["attn_implementation"] = options.attn
    auto = "AutoModelForCausalLM" if spec.kind == "gguf" else _auto_class(spec, options)
    if options.is_away:
        if auto != "AutoModelForCausalLM":
            raise UsageError(f"--nnsight-remote runs causal language models, not an {auto}")
        return _undispatched(spec, keywords)
    if spec.kind != "gguf" and auto == "AutoModelForCausalLM":
        return nnsight_api.load(spec.source, revision=spec.revision, **keywords)
    return nnsight_api.wrap(*_from_pretrained(spec, auto, keywords))


def _undispatched(spec: ModelSpec, keywords: dict[str, Any]) -> Any:
    """Load a model as nnsight sends it elsewhere: its modules, its tokenizer and no weights."""
    import transformers

    place: dict[str, Any] = {"revision": spec.revision} if spec.revision else {}
    trust = keywords["trust_remote_code"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        spec.source, trust_remote_code=trust, **place
    )
    return nnsight_api.load(spec.source, dispatch=False, tokenizer=tokenizer, **place, **keywords)


def _from_pretrained(spec: ModelSpec, auto: str, keywords: dict[str, Any]) -> tuple[Any, Any]:
    """Load model and tokenizer by transformers, for what nnsight's own door does not take."""
    import transformers

    place: dict[str, Any] = {"revision": spec.revision} if spec.revision else {}
    source = spec.source
    if spec.kind == "gguf":
        source, place = str(Path(spec.source).parent), {"gguf_file": Path(spec.source).name}
        if keywords["dtype"] == "auto":
            keywords = keywords | {"dtype": torch.float32}
    model = getattr(transformers, auto).from_pretrained(source, **place, **keywords)
    trust = keywords["trust_remote_code"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=trust, **place)
    return model, tokenizer


def _auto_class(spec: ModelSpec, options: LoadOptions) -> str:
    """Choose transformers' auto class from the architecture that the config names."""
    import transformers

    keywords: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if spec.revision:
        keywords["revision"] = spec.revision
    config = transformers.AutoConfig.from_pretrained(spec.source, **keywords)
    own = getattr(config, "auto_map", None) or {}  # of a model that brings its own code
    for auto in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForMaskedLM"):
        if auto in own:
            return auto
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if getattr(config, "is_encoder_decoder", False):
        return "AutoModelForSeq2SeqLM"
    if architecture.endswith("ForMaskedLM"):
        return "AutoModelForMaskedLM"
    if architecture.endswith("ForSequenceClassification"):
        return "AutoModelForSequenceClassification"
    if architecture.endswith("ForTokenClassification"):
        return "AutoModelForTokenClassification"
    if architecture.endswith("Model") and not architecture.endswith("LMHeadModel"):
        return "AutoModel"
    return "AutoModelForCausalLM"


def _device_map(text: str) -> Any:
    """Return what accelerate takes: a word, a device, or a map written as JSON."""
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"device map {text!r} is not JSON: {error}") from error


def _device(device_map: str) -> str:
    """Return where a built-in goes: a device, else the first accelerator, else the CPU."""
    if device_map not in _PLACEMENTS and not device_map.startswith("{"):
        return device_map
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is not None and accelerator.is_available():
        return str(accelerator.current_accelerator())
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _readable_errors(spec: ModelSpec) -> Iterator[None]:
    """Turn what transformers and its friends raise into one line that says what to do."""
    try:
        yield
    except (NnsightPluginError, KeyboardInterrupt, SystemExit):
        raise
    except MemoryError as error:
        raise LoadError(
            f"cannot load {spec.public}: not enough memory; try --nnsight-dtype bfloat16 "
            "or --nnsight-device-map auto"
        ) from error
    except Exception as error:
        raise LoadError(f"cannot load {spec.public}: {_reason(spec, error)}") from error


def _reason(spec: ModelSpec, error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
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
    return _original(str(error)) or f"{type(error).__name__}: {one_line(error)}"


def _original(text: str) -> str | None:
    """Find the error that transformers tells of as a traceback inside its own."""
    _, told, traceback = text.partition("original errors")
    causes = re.findall(r"^[\w.]+(?:Error|Exception|Interrupt): .+", traceback, re.MULTILINE)
    return one_line(Exception(causes[-1])) if told and causes else None


@contextmanager
def _quiet_transformers(shows_bars: bool) -> Iterator[None]:
    """Keep transformers' advice, and its progress bars, out of the test report while it loads."""
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
