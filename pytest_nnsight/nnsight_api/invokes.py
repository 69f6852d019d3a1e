"""Several prompts in one run, and steps of a generation: nnsight's invokes and its ``iter``.

Each invoke stands in a function of its own. Before 0.8 nnsight shares the variables of the frame
between the invokes that are opened in it, a loop's among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_nnsight.errors import text_of
from pytest_nnsight.nnsight_api.operations import Operation
from pytest_nnsight.nnsight_api.version import version

Steps = slice | list[int]
Intervention = Callable[[Any, Any, Any], Any]
"""Takes the model, the tracer, and the barrier of those invokes that wait, or ``None``."""


@dataclass(frozen=True, slots=True)
class Invoke:
    """A prompt as nnsight takes it, and what is done while it runs.

    ``at`` are the steps of a generation at which ``intervene`` is called; without, it is called
    once. ``waits`` says that it calls the barrier. An invoke without arguments has no prompt: it
    sees the batch of all others.
    """

    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    intervene: Intervention | None = None
    at: Steps | None = None
    waits: bool = False


def run_invokes(
    model: Any,
    tracer: Any,
    invokes: Sequence[Invoke],
    begin: Callable[[Any, Any], None],
    operations: Sequence[Operation],
    ids: list[Any] | None = None,
) -> None:
    """Open the invokes of a trace without a prompt of its own; append to ``ids`` what it gives."""
    waiting = sum(invoke.waits for invoke in invokes)
    barrier = tracer.barrier(waiting) if waiting else None
    for invoke in invokes:
        _open(model, tracer, invoke, barrier)
    _open_with(model, tracer, begin)
    for operation in operations:
        _open_for(model, tracer, operation)
    if ids is not None:
        _open_result(tracer, ids)


def _open(model: Any, tracer: Any, invoke: Invoke, barrier: Any) -> None:
    with tracer.invoke(*invoke.arguments, **invoke.keywords):
        intervene_in(model, tracer, invoke, barrier)


def _open_with(model: Any, tracer: Any, begin: Callable[[Any, Any], None]) -> None:
    with tracer.invoke():
        begin(model, tracer)


def _open_for(model: Any, tracer: Any, operation: Operation) -> None:
    with tracer.invoke():
        _read_if_called(tracer, operation.reader(model))


def _read_if_called(tracer: Any, read: Callable[[], None]) -> None:
    """Read at every step; nothing where the forward took another branch."""
    try:
        _at_steps(tracer, slice(None), read)
    except Exception as error:
        if not _did_not_come(error):
            raise


def _open_result(tracer: Any, ids: list[Any]) -> None:
    with tracer.invoke():
        read_result(tracer, ids)


def read_result(tracer: Any, ids: list[Any]) -> None:
    """Wait for the ids; there are none where an intervention stops the run."""
    try:
        ids.append(tracer.result.save())
    except Exception as error:
        if not _did_not_come(error):
            raise


def _did_not_come(error: Exception) -> bool:
    """Tell whether a value was waited for that the run did not reach.

    The class has another place in each version of nnsight; 0.5 and 0.6 raise a ``ValueError``.
    """
    named = type(error).__name__ in ("OutOfOrderError", "MissedProviderError")
    return named or text_of(error).startswith("Execution complete but")


def intervene_in(model: Any, tracer: Any, invoke: Invoke, barrier: Any = None) -> None:
    """Call what intervenes in an invoke, at its steps."""
    intervene = invoke.intervene
    if intervene is None:
        return
    if invoke.at is None:
        intervene(model, tracer, barrier)
        return
    _at_steps(tracer, invoke.at, lambda: intervene(model, tracer, barrier))


def _at_steps(tracer: Any, steps: Steps, do: Callable[[], Any]) -> None:
    """Call ``do`` at every one of some steps; what comes behind it in an invoke may not run."""
    if version() < (0, 6):
        with tracer.iter[steps]:
            do()
        return
    for _ in tracer.iter[steps]:
        do()
