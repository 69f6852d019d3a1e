"""One forward pass or one generation under nnsight; values are handed out as they pass."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pytest_nnsight.nnsight_api.inputs import as_inputs
from pytest_nnsight.nnsight_api.leftovers import remove_cache_hooks
from pytest_nnsight.nnsight_api.tree import envoys, torch_paths
from pytest_nnsight.nnsight_api.version import version

Receive = Callable[[str, str, Any], None]
"""Is handed (module path, ``inputs`` or ``output``, value) as the model runs."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What to hand over while the model runs, and to whom.

    ``outputs`` and ``inputs`` are torch module paths. ``intervene`` is called in the body of the
    trace with the model and the tracer, and then ``differentiate``, for which gradients are on.
    """

    outputs: Sequence[str]
    inputs: Sequence[str]
    receive: Receive
    intervene: Callable[[Any, Any], Any] | None = None
    differentiate: Callable[[Any, Any], None] | None = None


def run_trace(
    model: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], watch: Watch
) -> None:
    """Run one forward pass; ``watch`` gets the values of its modules as they appear.

    nnsight reads the source of its ``with``, which therefore stands on a line of its own.
    """
    arguments, keywords = as_inputs(model, arguments, keywords)
    with _quiet_forward(with_gradients=watch.differentiate is not None):
        with model.trace(*arguments, **keywords) as tracer:
            _begin(model, tracer, watch)
    remove_cache_hooks(model)


def run_generate(
    model: Any, arguments: tuple[Any, ...], keywords: dict[str, Any], watch: Watch
) -> Any:
    """Generate; like `run_trace` for every step. Return the ids that transformers returns."""
    arguments, keywords = as_inputs(model, arguments, keywords)
    ids = None
    with _quiet_forward():
        with model.generate(*arguments, **keywords) as tracer:
            _begin(model, tracer, watch)
            ids = tracer.result.save()
    remove_cache_hooks(model)
    return ids


@contextmanager
def _quiet_forward(with_gradients: bool = False) -> Iterator[None]:
    """Run without gradients as a rule, and without nnsight's advice on what it deprecates."""
    with torch.set_grad_enabled(with_gradients), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="nnsight")
        yield


def _begin(model: Any, tracer: Any, watch: Watch) -> None:
    """Do what a trace's body starts with: tap the values, then intervene."""
    _tap(model, tracer, watch)
    if watch.intervene is not None:
        watch.intervene(model, tracer)
    if watch.differentiate is not None:
        watch.differentiate(model, tracer)


def _tap(model: Any, tracer: Any, watch: Watch) -> None:
    """Let ``watch`` see every value that ``tracer.cache`` would keep, at the moment it is there.

    nnsight's cache keeps all values to the end, by reference: memory grows with the model, and an
    operation in place changes what was seen. So the cache is asked for as usual and its last step,
    storing, is replaced. The order of calls is then the order of execution.
    """
    paths = torch_paths(model)
    for wanted, slot in ((watch.outputs, "output"), (watch.inputs, "inputs")):
        if not wanted:
            continue
        view = tracer.cache(
            modules=envoys(model, paths, wanted),
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
