"""Load a model through nnsight, with one-line errors that say what to do."""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.errors import LoadError, NnsightPluginError, UsageError, one_line
from pytest_nnsight.models import placement, skeleton, tiny
from pytest_nnsight.models.spec import LoadOptions, ModelSpec

_TASKS = (
    "ForCausalLM",
    "ForSeq2SeqLM",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForImageTextToText",
    "ForImageClassification",
    "ForSemanticSegmentation",
    "ForObjectDetection",
    "ForDepthEstimation",
    "ForSpeechSeq2Seq",
    "ForCTC",
    "ForAudioClassification",
    "",
)
"""The endings of the names of transformers' auto classes, in the order of preference."""


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
    if options.device_map == skeleton.DEVICE:
        return skeleton.build(spec, options, _auto_class)
    if spec.kind == "built-in":
        dtype = torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)
        module, tokenizer = tiny.build(spec.source.partition(":")[2], dtype, options.attn)
        return nnsight_api.wrap(placement.place(module, options.device_map), tokenizer)
    placed = placement.parse_map(options.device_map)
    placement.check_devices(placed)
    keywords: dict[str, Any] = {
        "device_map": placed,
        "dtype": options.dtype if options.dtype == "auto" else getattr(torch, options.dtype),
        "trust_remote_code": options.trust_remote_code,
    }
    if options.attn is not None:
        keywords["attn_implementation"] = options.attn
    if options.is_remote:
        return _load_for_remote(spec, options, keywords)
    with placement.offload_folder(placed) as folder, warnings.catch_warnings():
        if folder.path is not None:
            keywords["offload_folder"] = folder.path
        warnings.filterwarnings("ignore", "The following device_map keys do not match")
        model = _load_local(spec, options, keywords)
        placement.check_placed(placed, nnsight_api.torch_module(model))
    folder.remove_with(nnsight_api.torch_module(model))
    return model


def _load_local(spec: ModelSpec, options: LoadOptions, keywords: dict[str, Any]) -> Any:
    auto = "AutoModelForCausalLM" if spec.kind == "gguf" else _auto_class(spec, options)
    if spec.kind != "gguf" and auto == "AutoModelForCausalLM":
        return nnsight_api.load(spec.source, revision=spec.revision, **keywords)
    return nnsight_api.wrap(*_from_pretrained(spec, auto, keywords))


def _load_for_remote(spec: ModelSpec, options: LoadOptions, keywords: dict[str, Any]) -> Any:
    """Load a model that runs on a server: its modules and its tokenizer, without weights."""
    import transformers

    auto = _auto_class(spec, options)
    if auto != "AutoModelForCausalLM":
        raise UsageError(f"--nnsight-remote runs causal language models, not an {auto}")
    revision: dict[str, Any] = {"revision": spec.revision} if spec.revision else {}
    trust = keywords["trust_remote_code"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        spec.source, trust_remote_code=trust, **revision
    )
    return nnsight_api.load(
        spec.source, dispatch=False, tokenizer=tokenizer, **revision, **keywords
    )


def _from_pretrained(spec: ModelSpec, auto: str, keywords: dict[str, Any]) -> tuple[Any, Any]:
    """Load model and tokenizer by transformers, if nnsight does not load this kind of model."""
    import transformers

    revision: dict[str, Any] = {"revision": spec.revision} if spec.revision else {}
    source = spec.source
    if spec.kind == "gguf":
        source = str(Path(spec.source).parent)
        revision = {"gguf_file": Path(spec.source).name}
        if keywords["dtype"] == "auto":
            keywords = keywords | {"dtype": torch.float32}
    model = getattr(transformers, auto).from_pretrained(source, **revision, **keywords)
    trust = keywords["trust_remote_code"]
    try:
        return model, transformers.AutoTokenizer.from_pretrained(
            source, trust_remote_code=trust, **revision
        )
    except Exception:  # transformers raises several errors if there is no tokenizer
        if model.main_input_name == "input_ids":
            raise
        return model, None


def _auto_class(spec: ModelSpec, options: LoadOptions) -> str:
    """Choose transformers' auto class from the architecture that the config names."""
    import transformers

    keywords: dict[str, Any] = {"trust_remote_code": options.trust_remote_code}
    if spec.revision:
        keywords["revision"] = spec.revision
    config = transformers.AutoConfig.from_pretrained(spec.source, **keywords)
    auto_map = getattr(config, "auto_map", None) or {}  # of a model with custom code
    named = (f"AutoModel{task}" for task in _TASKS if f"AutoModel{task}" in auto_map)
    if (auto := next(named, None)) is not None:
        return auto
    architecture = (getattr(config, "architectures", None) or [""])[0]
    return _auto_class_of(type(config), architecture) or (
        "AutoModelForSeq2SeqLM"
        if getattr(config, "is_encoder_decoder", False)
        else "AutoModelForCausalLM"
    )


def _auto_class_of(config: type, architecture: str) -> str | None:
    """Return the first auto class of `_TASKS` that makes this architecture, or ``None``."""
    import transformers

    for task in _TASKS:
        auto = getattr(transformers, f"AutoModel{task}", None)
        made = getattr(auto, "_model_mapping", {}).get(config, ())
        classes = made if isinstance(made, list | tuple) else (made,)
        if architecture in [kind.__name__ for kind in classes]:
            return f"AutoModel{task}"
    return None


@contextmanager
def _readable_errors(spec: ModelSpec) -> Iterator[None]:
    """Turn errors of transformers and other libraries into `LoadError`, which says what to do."""
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
    """Return the original error, whose traceback is inside the message of transformers' error."""
    _, separator, traceback = text.partition("original errors")
    causes = re.findall(r"^[\w.]+(?:Error|Exception|Interrupt): .+", traceback, re.MULTILINE)
    return one_line(Exception(causes[-1])) if separator and causes else None


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
