"""One forward pass or one generation under nnsight; values are handed out as they pass."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pytest_nnsight.nnsight_api.input_format import as_inputs
from pytest_nnsight.nnsight_api.invokes import Invoke, intervene_in, read_result, run_invokes
from pytest_nnsight.nnsight_api.leftovers import remove_cache_hooks
from pytest_nnsight.nnsight_api.operations import Operation
from pytest_nnsight.nnsight_api.tree import envoys, torch_paths
from pytest_nnsight.nnsight_api.version import version

Receive = Callable[[str, str, Any], None]
"""Is handed (module path, ``inputs`` or ``output``, value) as the model runs."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What to hand over while the model runs, and to whom.

    ``outputs`` and ``inputs`` are torch module paths, ``operations`` calls inside of a module's
    forward. ``differentiate`` is called in the body of the trace with the model and the tracer;
    gradients are on for it.
    """

    outputs: Sequence[str]
    inputs: Sequence[str]
    receive: Receive
    differentiate: Callable[[Any, Any], None] | None = None
    operations: Sequence[Operation] = field(default=())


def run_trace(model: Any, invokes: Sequence[Invoke], watch: Watch) -> None:
    """Run one forward pass; ``watch`` gets the values of its modules as they appear.

    nnsight reads the source of its ``with``, which therefore stands on a line of its own.
    """
    invokes = [adapted(model, invoke) for invoke in invokes]
    first, *others = invokes
    with quiet_forward(_is_open_ended(invokes, watch), watch.differentiate is not None):
        if others or watch.operations:
            with model.trace() as tracer:
                run_invokes(model, tracer, invokes, _begun_by(watch), watch.operations)
        else:
            with model.trace(*first.arguments, **first.keywords) as tracer:
                begin(model, tracer, watch)
                intervene_in(model, tracer, first)
                _differentiate(model, tracer, watch)
    remove_cache_hooks(model)


def run_generate(
    model: Any, invokes: Sequence[Invoke], settings: dict[str, Any], watch: Watch
) -> Any:
    """Generate; like `run_trace` for every step. Return the ids that transformers returns,
    or ``None`` where an intervention has stopped the run.

    With an intervention the ids are waited for in an invoke of their own: what stands behind an
    iteration over all steps is not run by nnsight 0.8. Before 0.7 it is, and a module is skipped in
    all invokes or in none.
    """
    invokes = [adapted(model, invoke) for invoke in invokes]
    first, *others = invokes
    ids: list[Any] = []
    with quiet_forward(_is_open_ended(invokes, watch)):
        if others or watch.operations or (first.intervene is not None and version() >= (0, 7)):
            with model.generate(**settings) as tracer:
                run_invokes(model, tracer, invokes, _begun_by(watch), watch.operations, ids)
        else:
            with model.generate(*first.arguments, **first.keywords, **settings) as tracer:
                begin(model, tracer, watch)
                intervene_in(model, tracer, first)
                read_result(tracer, ids)
    remove_cache_hooks(model)
    return ids[0] if ids else None


def adapted(model: Any, invoke: Invoke) -> Invoke:
    """Return an invoke with its inputs as this version of nnsight takes them."""
    arguments, keywords = as_inputs(model, invoke.arguments, invoke.keywords)
    return replace(invoke, arguments=arguments, keywords=keywords)


def _is_open_ended(invokes: Sequence[Invoke], watch: Watch) -> bool:
    """Tell whether something is read at every step, or at steps that are checked afterwards."""
    return bool(watch.operations) or any(invoke.at is not None for invoke in invokes)


@contextmanager
def quiet_forward(is_open_ended: bool = False, with_gradients: bool = False) -> Iterator[None]:
    """Run without gradients as a rule, and without nnsight's advice on what it deprecates.

    Nor does it tell then of iterations that ended with the run, as they do by design.
    """
    with torch.set_grad_enabled(with_gradients), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="nnsight")
        if is_open_ended:
            warnings.filterwarnings("ignore", message=r"'.*' was never reached")
            warnings.filterwarnings("ignore", message="Execution complete but `.*` was not")
        yield


def _begun_by(watch: Watch) -> Callable[[Any, Any], None]:
    """Return what is done behind the invokes of the prompts, where all of the batch is seen."""

    def both(model: Any, tracer: Any) -> None:
        begin(model, tracer, watch)
        _differentiate(model, tracer, watch)

    return both


def _differentiate(model: Any, tracer: Any, watch: Watch) -> None:
    if watch.differentiate is not None:
        watch.differentiate(model, tracer)


def begin(model: Any, tracer: Any, watch: Watch) -> None:
    """Let ``watch`` see every value that ``tracer.cache`` would keep, at the moment it is there.

    nnsight's cache keeps all values to the end, by reference: memory grows with the model, and an
    operation in place changes what was seen. So the cache is asked for as usual and its last step,
    storing, is replaced. The order of calls is then the order of execution.
    """
    paths = torch_paths(model)
    same = {*watch.inputs} == {*watch.outputs}
    modules = envoys(model, paths, watch.outputs)
    for wanted, slot in ((watch.outputs, "output"), (watch.inputs, "inputs")):
        if not wanted:
            continue
        view = tracer.cache(
            modules=modules if same else envoys(model, paths, wanted),
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
    mediator = interleaver.current
    if version() == (0, 7) and mediator.batch_group is None:
        # A cache of an invoke without a prompt sees the whole batch on the others, nothing on 0.7.
        mediator.batch_group = [0, interleaver.batcher.total_batch_size]
    cache = mediator.user_cache[-1]
    wanted = set(cache.modules)

    def add(*arguments: Any) -> None:
        located = _located(arguments)
        if located is None or located[0] not in wanted:
            return
        path, slot, value = located
        if slot == "inputs":
            value = _called_with(value, interleaver, mediator)
        if (slot == "output" and cache.include_output) or (
            slot == "inputs" and cache.include_inputs
        ):
            receive(paths[path], slot, value)

    cache.add = add


def _called_with(value: Any, interleaver: Any, mediator: Any) -> tuple[Any, dict[str, Any]]:
    """Return arguments and keywords, of a module that is skipped too.

    What it is to give is handed over in their place by 0.5 and 0.6, among its keywords by 0.7.
    """
    if not isinstance(value, tuple) or [*map(type, value)] != [tuple, dict]:
        value = interleaver.batcher.narrow(mediator.batch_group)
    arguments, keywords = value
    return arguments, {k: v for k, v in keywords.items() if k != "__nnsight_skip__"}


def _located(arguments: tuple[Any, ...]) -> tuple[str, str, Any] | None:
    """Read what ``Cache.add`` is called with: (path, slot, value) on 0.7, before one location."""
    if len(arguments) == 3:
        return arguments
    location, value = arguments
    match = re.fullmatch(r"(.+)\.(input|output)\.i\d+", location)
    if match is None:
        return None
    return match[1], "inputs" if match[2] == "input" else "output", value
