"""The border to nnsight: the only module that knows its versions.

Known are 0.5.15 to 0.8. What differs between them:

- loading: 0.8 opens ``TransformersModel(path, task=...)``, before it was ``LanguageModel(path)``,
  which leaves the padding of a tokenizer that it is given alone;
- inputs: 0.5 takes tensors as one positional dict, 0.6 and later as keywords too;
- modules: before 0.8 a ``generator`` of nnsight's own hangs in the torch model;
- the cache: 0.8 hands a value over in ``Cache.observe_selected``, before it was ``Cache.add``;
  0.7 leaves the cache's hooks on the model;
- edits: 0.8 keeps them in ``model._edits``, before it was ``model._default_mediators``.

Everything here is ``Any``: nnsight has no types of its own.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch

from pytest_nnsight.errors import UsageError

Receive = Callable[[str, str, Any], None]
"""Is handed (module path, ``inputs`` or ``output``, value) as the model runs."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What to hand over while the model runs, and to whom.

    ``outputs`` and ``inputs`` are torch module paths. ``intervene`` is called in the body of the
    trace with the model and the tracer.
    """

    outputs: Sequence[str]
    inputs: Sequence[str]
    receive: Receive
    intervene: Callable[[Any, Any], Any] | None = None


# Where nnsight mounts ``output`` on modules that have one, as BERT's do; captures go by path.
_NAME_IS_TAKEN = "Module .* has (a submodule named|pre-defined a)"


def version() -> tuple[int, int]:
    """Return nnsight's major and minor version."""
    major, minor = metadata.version("nnsight").split(".")[:2]
    return int(major), int(minor)


def _import_nnsight() -> Any:
    """Import nnsight without breaking anyio.

    nnsight 0.8 mounts ``save`` on ``object``, which anyio's typed attributes take for one of their
    own unless they were created before. Goes when nnsight no longer mounts on ``object``.
    """
    try:
        import anyio.abc
        import anyio.streams.file
        import anyio.streams.tls

        for owner, name in (
            (anyio.abc, "SocketAttribute"),
            (anyio.streams.tls, "TLSAttribute"),
            (anyio.streams.file, "FileStreamAttribute"),
        ):
            getattr(owner, name)
    except ImportError:
        pass
    import nnsight

    return nnsight


def load(path: str, **keywords: Any) -> Any:
    """Load a causal language model by hub id or folder and dispatch it, as nnsight's users do."""
    nnsight = _import_nnsight()
    if keywords.get("revision") is None:
        keywords.pop("revision", None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_NAME_IS_TAKEN)
        if version() >= (0, 8):
            return nnsight.TransformersModel(
                path, task="text-generation", dispatch=True, **keywords
            )
        return nnsight.LanguageModel(path, dispatch=True, **keywords)


def wrap(module: torch.nn.Module, tokenizer: Any) -> Any:
    """Wrap a loaded transformers model of any architecture, with its tokenizer."""
    nnsight = _import_nnsight()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_NAME_IS_TAKEN)
        if version() >= (0, 8):
            # The pipeline of any other task refuses prompts that do not suit the task, such as a
            # text without a mask token; this one only tokenizes.
            task = "text-generation" if is_causal(module) else "feature-extraction"
            return nnsight.TransformersModel(module, tokenizer=tokenizer, task=task)
        _pad_for_batches(module, tokenizer)
        return nnsight.LanguageModel(module, tokenizer=tokenizer)


def _pad_for_batches(module: torch.nn.Module, tokenizer: Any) -> None:
    """Pad as nnsight does with a tokenizer that it loads itself. Goes when nnsight 0.7 does."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if is_causal(module):
        tokenizer.padding_side = "left"


def is_causal(module: torch.nn.Module) -> bool:
    """Tell a decoder-only language model from an encoder or an encoder-decoder."""
    config = getattr(module, "config", None)
    can_generate = getattr(module, "can_generate", lambda: False)
    return bool(can_generate()) and not getattr(config, "is_encoder_decoder", False)


def torch_module(model: Any) -> torch.nn.Module:
    """Return the torch module that an nnsight model wraps."""
    module: torch.nn.Module = model._module
    return module


def named_modules(model: Any) -> dict[str, torch.nn.Module]:
    """Return the torch modules by path (the empty string for the model), without nnsight's own."""
    return {
        path: module
        for path, module in torch_module(model).named_modules()
        if not type(module).__module__.startswith("nnsight.")
    }


def run_trace(
    model: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], watch: Watch
) -> None:
    """Run one forward pass; ``watch`` gets the values of its modules as they appear.

    nnsight reads the source of its ``with``, which therefore stands on a line of its own.
    """
    arguments, keywords = _as_inputs(arguments, keywords)
    with _quiet_forward():
        with model.trace(*arguments, **keywords) as tracer:
            _begin(model, tracer, watch)
    remove_cache_hooks(model)


def run_generate(
    model: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], watch: Watch
) -> Any:
    """Generate; like `run_trace` for every step. Return the ids that transformers returns."""
    arguments, keywords = _as_inputs(arguments, keywords)
    ids = None
    with _quiet_forward():
        with model.generate(*arguments, **keywords) as tracer:
            _begin(model, tracer, watch)
            ids = tracer.result.save()
    remove_cache_hooks(model)
    return ids


def _as_inputs(
    arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hand tensors to nnsight 0.5 as its positional input, and leave it settings as keywords.

    Raise `UsageError` for embeddings on 0.6 and 0.7, which trace nothing without ``input_ids``.
    """
    if arguments or version() >= (0, 8):
        return arguments, keywords
    if version() >= (0, 6):
        if "input_ids" not in keywords:
            raise UsageError("nnsight 0.6 and 0.7 cannot trace inputs_embeds; give token ids")
        return arguments, keywords
    tensors = {name: value for name, value in keywords.items() if isinstance(value, torch.Tensor)}
    return (tensors,), {name: value for name, value in keywords.items() if name not in tensors}


def remove_cache_hooks(model: Any) -> None:
    """Take off the hooks of finished caches, which would go on storing in every later run.

    Only nnsight 0.7 leaves them: it cleans up after a trace that failed, not after one that ended
    well. They are the hooks that run after all others. Goes when nnsight 0.7 does.
    """
    if version() != (0, 7):
        return
    for module in torch_module(model).modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key, hook in list(hooks.items()):
                if getattr(hook, "mediator_idx", None) == float("inf"):
                    del hooks[key]


def edits(model: Any) -> int:
    """Return how many persistent edits (``model.edit(inplace=True)``) a model carries."""
    return len(getattr(model, "_edits", None) or getattr(model, "_default_mediators", None) or ())


def clear_edits(model: Any) -> None:
    """Take all persistent edits off a model."""
    model.clear_edits()


def _torch_paths(model: Any) -> dict[str, str]:
    """Map nnsight's module paths to torch's (the empty string for the model itself)."""
    names = {id(module): name for name, module in named_modules(model).items()}
    return {
        envoy.path: names[id(envoy._module)]
        for envoy in model.modules()
        if id(envoy._module) in names
    }


def _envoys(model: Any, names: dict[str, str], paths: Sequence[str]) -> list[Any]:
    """Return nnsight's envoys of the modules at torch ``paths``, given `_torch_paths`.

    One for each module: 0.7 reports a module that has several names once for each of them.
    """
    wanted = set(paths)
    found = [envoy for envoy in model.modules() if names.get(envoy.path) in wanted]
    return list({id(envoy._module): envoy for envoy in found}.values())


@contextmanager
def _quiet_forward() -> Iterator[None]:
    """Run without gradients, and without nnsight's advice on what it deprecates."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="nnsight")
        yield


def _begin(model: Any, tracer: Any, watch: Watch) -> None:
    """Do what a trace's body starts with: tap the values, then intervene."""
    _tap(model, tracer, watch)
    if watch.intervene is not None:
        watch.intervene(model, tracer)


def _tap(model: Any, tracer: Any, watch: Watch) -> None:
    """Let ``watch`` see every value that ``tracer.cache`` would keep, at the moment it is there.

    nnsight's cache keeps all values to the end, by reference: memory grows with the model, and an
    operation in place changes what was seen. So the cache is asked for as usual and its last step,
    storing, is replaced. The order of calls is then the order of execution.
    """
    paths = _torch_paths(model)
    for wanted, slot in ((watch.outputs, "output"), (watch.inputs, "inputs")):
        if not wanted:
            continue
        view = tracer.cache(
            modules=_envoys(model, paths, wanted),
            device=None,
            detach=False,
            include_output=slot == "output",
            include_inputs=slot == "inputs",
        )
        _replace_store(tracer, view, paths, watch.receive)


def _replace_store(tracer: Any, view: Any, paths: dict[str, str], receive: Receive) -> None:
    if version() >= (0, 8):

        def observe(selected: tuple[str, str], value: Any) -> None:
            receive(paths[selected[0]], selected[1], value)

        view._cache.observe_selected = observe
        return
    interleaver = getattr(tracer.model, "interleaver", None) or tracer.model._interleaver
    cache = interleaver.current.user_cache[-1]
    wanted = set(cache.modules)

    def add(*arguments: Any) -> None:
        located = _located(arguments)
        if located is None or located[0] not in wanted:
            return
        path, slot, value = located
        if (slot == "output" and cache.include_output) or (
            slot == "inputs" and cache.include_inputs
        ):
            receive(paths[path], slot, value)

    cache.add = add


def _located(arguments: tuple[Any, ...]) -> tuple[str, str, Any] | None:
    """Read what ``Cache.add`` is called with: (path, slot, value) on 0.7, before one location."""
    if len(arguments) == 3:
        return arguments
    location, value = arguments
    match = re.fullmatch(r"(.+)\.(input|output)\.i\d+", location)
    if match is None:
        return None
    return match[1], "inputs" if match[2] == "input" else "output", value
