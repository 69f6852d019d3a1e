"""Run several prompts in one trace, and steps of a generation: nnsight's invokes and its ``iter``.

Each invoke is opened in a function of its own: before 0.8 all invokes of one frame share the
variables of that frame, those of a loop among them. Can become a loop without nnsight 0.7.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from pytest_nnsight.errors import UsageError, text_of
from pytest_nnsight.nnsight_api.module_tree import torch_module
from pytest_nnsight.nnsight_api.operations import Operation
from pytest_nnsight.nnsight_api.version import import_nnsight, version

StepIndex = slice | list[int]
"""Steps of a generation, as ``tracer.iter[...]`` takes them."""
Intervention = Callable[[Any, Any, Any], Any]
"""Takes the model, the tracer, and the barrier of the invokes that wait for it, or ``None``."""


@dataclass(frozen=True, slots=True)
class Invoke:
    """One prompt as nnsight takes it, and the intervention that runs with it.

    ``steps`` are those of a generation at which ``intervene`` is called; without, it is called
    once. ``waits`` says that it calls the barrier. An invoke without arguments has no prompt: it
    sees the batch of all others.
    """

    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    intervene: Intervention | None = None
    steps: StepIndex | None = None
    waits: bool = False


_WHOLE_BATCH = Invoke()


def adapt(model: Any, invoke: Invoke) -> Invoke:
    """Return an invoke for the installed nnsight: 0.5 takes tensors as one positional dict.

    Raise `UsageError` for embeddings on 0.6 and 0.7, which cannot trace without ``input_ids``. Can
    go with nnsight 0.7.
    """
    keywords = invoke.keywords
    if invoke.arguments or version() >= (0, 8):
        return invoke
    is_language_model = isinstance(model, import_nnsight().LanguageModel)
    if version() >= (0, 6):
        if is_language_model and "input_ids" not in keywords:
            raise UsageError("nnsight 0.6 and 0.7 cannot trace inputs_embeds; give token ids")
        return invoke
    if not is_language_model:
        # Without a positional input 0.5 opens no trace; the other inputs may be keywords.
        first = next(iter(inspect.signature(torch_module(model).forward).parameters))
        others = {name: value for name, value in keywords.items() if name != first}
        return replace(invoke, arguments=(keywords.get(first),), keywords=others)
    tensors = {name: value for name, value in keywords.items() if isinstance(value, torch.Tensor)}
    others = {name: value for name, value in keywords.items() if name not in tensors}
    return replace(invoke, arguments=(tensors,), keywords=others)


def run_invokes(
    model: Any,
    tracer: Any,
    invokes: Sequence[Invoke],
    body: Callable[[Any, Any], None],
    operations: Sequence[Operation],
    ids: list[Any] | None = None,
) -> None:
    """Open all invokes in a trace that has no prompt of its own.

    After those of the prompts, ``body`` runs in an invoke that sees the whole batch. Append the
    generated ids to ``ids``, if given.
    """
    waiting = sum(invoke.waits for invoke in invokes)
    barrier = tracer.barrier(waiting) if waiting else None
    for invoke in invokes:
        _open(tracer, partial(intervene_in, model, tracer, invoke, barrier), invoke)
    _open(tracer, partial(body, model, tracer))
    for operation in operations:
        _open(tracer, partial(_read_operation, model, tracer, operation))
    if ids is not None:
        _open(tracer, partial(read_result, tracer, ids))


def _open(tracer: Any, run_body: Callable[[], Any], invoke: Invoke = _WHOLE_BATCH) -> None:
    """Call ``run_body`` in an invoke.

    No variable here may be called as one of `_at_steps`, which nnsight 0.5 would replace by it.
    """
    with tracer.invoke(*invoke.arguments, **invoke.keywords):
        run_body()


def _read_operation(model: Any, tracer: Any, operation: Operation) -> None:
    """Read an operation at every step; ignore one that the forward does not reach."""
    with _ignored_where_missing():
        _at_steps(tracer, slice(None), operation.reader(model))


def read_result(tracer: Any, ids: list[Any]) -> None:
    """Append the generated ids to ``ids``; append nothing where an intervention stops the run."""
    with _ignored_where_missing():
        ids.append(tracer.result.save())


@contextmanager
def _ignored_where_missing() -> Iterator[None]:
    """Ignore an error that says that the run ended before a value was computed.

    The class is defined elsewhere in each version of nnsight; 0.5 and 0.6 raise a ``ValueError``.
    """
    try:
        yield
    except Exception as error:
        is_named = type(error).__name__ in ("OutOfOrderError", "MissedProviderError")
        if not is_named and not text_of(error).startswith("Execution complete but"):
            raise


def intervene_in(model: Any, tracer: Any, invoke: Invoke, barrier: Any = None) -> None:
    """Call the intervention of an invoke, at its steps."""
    intervene = invoke.intervene
    if intervene is None:
        return
    if invoke.steps is None:
        intervene(model, tracer, barrier)
        return
    _at_steps(tracer, invoke.steps, lambda: intervene(model, tracer, barrier))


def _at_steps(tracer: Any, steps: StepIndex, function: Callable[[], Any]) -> None:
    """Call ``function`` at each of some steps; nnsight may not run code after it in an invoke."""
    if version() < (0, 6):
        with tracer.iter[steps]:
            function()
        return
    for _ in tracer.iter[steps]:
        function()
