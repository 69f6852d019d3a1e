"""Receive each value that nnsight's cache would store, when a module computes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_nnsight.nnsight_api.module_tree import envoys, torch_paths
from pytest_nnsight.nnsight_api.operations import Operation
from pytest_nnsight.nnsight_api.version import version

Receive = Callable[[str, str, Any], object]
"""Is called with (module path, ``inputs`` or ``output``, value) while the model runs.

A true result for the inputs of a module means that no more of them are needed: nnsight 0.8 then
skips them for the rest of the run, and earlier versions go on handing them over.
"""


@dataclass(frozen=True, slots=True)
class Subscription:
    """Which values are handed over while the model runs, and the function that receives them.

    ``outputs`` and ``inputs`` are torch module paths, ``operations`` calls inside a module's
    forward. ``differentiate`` is called in the body of the trace with the model and the tracer, and
    turns gradients on.
    """

    outputs: Sequence[str]
    inputs: Sequence[str]
    receive: Receive
    differentiate: Callable[[Any, Any], None] | None = None
    operations: Sequence[Operation] = ()


def subscribe(model: Any, tracer: Any, subscription: Subscription) -> None:
    """Open nnsight's cache in the body of a trace, with a receiver in place of its storage.

    nnsight's cache stores all values until the end, by reference: memory grows with the model, and
    an operation in place changes values that were stored before. The calls are received in the
    order of execution.
    """
    if version() >= (0, 8):
        outputs, inputs, receive = subscription.outputs, subscription.inputs, subscription.receive
        observe_cache(model, tracer, outputs, inputs, receive)
        return
    paths = torch_paths(model)
    for slot, selected in (("output", subscription.outputs), ("inputs", subscription.inputs)):
        if selected:
            _open_cache(tracer, envoys(model, paths, selected), slot)
            _replace_add(tracer, paths, slot, subscription.receive)


def observe_cache(
    model: Any,
    tracer: Any,
    outputs: Sequence[str],
    inputs: Sequence[str],
    receive: Receive,
) -> None:
    """Subscribe on nnsight 0.8, whose cache calls ``observe_selected`` with each value.

    A remote trace runs it on the server, which knows nothing of the versions here.
    """
    paths = torch_paths(model)
    modules = envoys(model, paths, outputs)
    for slot, selected in (("output", outputs), ("inputs", inputs)):
        if not selected:
            continue
        if {*selected} != {*outputs}:
            modules = envoys(model, paths, selected)
        view = _open_cache(tracer, modules, slot)

        def observe(location: tuple[str, str], value: Any) -> None:
            if receive(paths[location[0]], location[1], value):
                routes, provider = model.interleaver.observers, f"{location[0]}.input"
                routes[provider] = [each for each in routes[provider] if each[2] is not location]

        view._cache.observe_selected = observe


def _open_cache(tracer: Any, modules: list[Any], slot: str) -> Any:
    includes = {"include_output": slot == "output", "include_inputs": slot == "inputs"}
    return tracer.cache(modules=modules, device=None, detach=False, **includes)


def _replace_add(tracer: Any, paths: dict[str, str], slot: str, receive: Receive) -> None:
    """Replace ``add`` of the newest cache on nnsight 0.5 to 0.7. Can go with nnsight 0.7."""
    interleaver = getattr(tracer.model, "interleaver", None) or tracer.model._interleaver
    mediator = interleaver.current
    if version() == (0, 7) and mediator.batch_group is None:
        # On 0.7 the cache of an invoke without a prompt receives nothing; on other versions it
        # receives the values of the whole batch.
        mediator.batch_group = [0, interleaver.batcher.total_batch_size]
    cache = mediator.user_cache[-1]
    selected = set(cache.modules)

    def add(*arguments: Any) -> None:
        located = _located(arguments)
        if located is None or located[0] not in selected or located[1] != slot:
            return
        path, _, value = located
        if slot == "inputs":
            value = _call_arguments(value, interleaver, mediator)
        receive(paths[path], slot, value)

    cache.add = add


def _call_arguments(value: Any, interleaver: Any, mediator: Any) -> tuple[Any, dict[str, Any]]:
    """Return the arguments and keywords of a call.

    For a module that is skipped, nnsight 0.5 and 0.6 hand over its replacement output instead of
    them, and 0.7 puts the replacement among the keywords.
    """
    if not isinstance(value, tuple) or [*map(type, value)] != [tuple, dict]:
        value = interleaver.batcher.narrow(mediator.batch_group)
    arguments, keywords = value
    return arguments, {k: v for k, v in keywords.items() if k != "__nnsight_skip__"}


def _located(arguments: tuple[Any, ...]) -> tuple[str, str, Any] | None:
    """Read the arguments of ``Cache.add``: path, slot and value on 0.7, else location and value."""
    if len(arguments) == 3:
        return arguments
    location, value = arguments
    match = re.fullmatch(r"(.+)\.(input|output)\.i\d+", location)
    if match is None:
        return None
    return match[1], "inputs" if match[2] == "input" else "output", value
