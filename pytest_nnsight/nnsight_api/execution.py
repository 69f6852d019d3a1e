"""Run one forward pass, one generation or one scan under nnsight, on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from typing import Any

import torch

from pytest_nnsight.errors import UsageError, one_line
from pytest_nnsight.nnsight_api.attachments import remove_cache_hooks
from pytest_nnsight.nnsight_api.invokes import Invoke, intervene_in, read_result, run_invokes
from pytest_nnsight.nnsight_api.module_tree import torch_module
from pytest_nnsight.nnsight_api.subscription import Subscription, subscribe
from pytest_nnsight.nnsight_api.trace_inputs import adapt_inputs
from pytest_nnsight.nnsight_api.version import version

# Torch's words where a model needs a number, or arithmetic that the meta device lacks.
_NEEDS_NUMBERS = ("DataDependent", "meta tensor", "unsupported scalarType", "for autocast")


def run_trace(model: Any, invokes: Sequence[Invoke], subscription: Subscription) -> None:
    """Run one forward pass; ``subscription`` receives the values while they are computed.

    nnsight reads the source of each ``with``, which therefore stands on a line of its own.
    """
    invokes = [_adapted(model, invoke) for invoke in invokes]
    first, *others = invokes
    body = _body_of_last_invoke(subscription)
    with _forward_context(
        _reads_every_step(invokes, subscription), subscription.differentiate is not None
    ):
        if others or subscription.operations:
            with model.trace() as tracer:
                run_invokes(model, tracer, invokes, body, subscription.operations)
        else:
            with model.trace(*first.arguments, **first.keywords) as tracer:
                subscribe(model, tracer, subscription)
                intervene_in(model, tracer, first)
                _differentiate(model, tracer, subscription)
    remove_cache_hooks(model)


def run_generate(
    model: Any, invokes: Sequence[Invoke], settings: dict[str, Any], subscription: Subscription
) -> Any:
    """Generate; return transformers' ids, or ``None`` where an intervention stopped the run.

    ``subscription`` receives the values of every step. With an intervention the ids are read in an
    invoke of their own, because nnsight 0.8 does not run code that follows an iteration over all
    steps (https://github.com/ndif-team/nnsight/pull/686). Before 0.7 it does, and there a module
    must be skipped in all invokes or in none.
    """
    invokes = [_adapted(model, invoke) for invoke in invokes]
    first, *others = invokes
    ids: list[Any] = []
    body = _body_of_last_invoke(subscription)
    with _forward_context(_reads_every_step(invokes, subscription)):
        has_intervention = first.intervene is not None and version() >= (0, 7)
        if others or subscription.operations or has_intervention:
            with model.generate(**settings) as tracer:
                run_invokes(model, tracer, invokes, body, subscription.operations, ids)
        else:
            with model.generate(*first.arguments, **first.keywords, **settings) as tracer:
                subscribe(model, tracer, subscription)
                intervene_in(model, tracer, first)
                read_result(tracer, ids)
    remove_cache_hooks(model)
    return ids[0] if ids else None


def run_scan(model: Any, invoke: Invoke, subscription: Subscription) -> None:
    """Run one forward pass on tensors that have shapes and no numbers; else like `run_trace`.

    Raise `UsageError` for a model whose code needs a number.
    """
    invoke = _adapted(model, invoke)
    try:
        with _forward_context(), model.scan(*invoke.arguments, **invoke.keywords) as tracer:
            subscribe(model, tracer, subscription)
            intervene_in(model, tracer, invoke)
    except Exception as error:
        text = f"{type(error).__name__} {error}"
        if not any(words in text for words in _NEEDS_NUMBERS):
            raise
        raise UsageError(
            f"cannot scan {type(torch_module(model)).__name__}: transformers "
            f"{metadata.version('transformers')} needs more than shapes for it "
            f"({_last_reason(text)}); 5.23 does not for most models"
        ) from error
    finally:
        remove_cache_hooks(model)


def _last_reason(text: str) -> str:
    """Return the last matching line; before 0.8 nnsight puts a traceback in front of it."""
    reasons = [
        line.strip() for line in text.splitlines() if any(words in line for words in _NEEDS_NUMBERS)
    ]
    return one_line(Exception(reasons[-1]), 120)


def _adapted(model: Any, invoke: Invoke) -> Invoke:
    """Return an invoke with its inputs in the form that the installed nnsight expects."""
    arguments, keywords = adapt_inputs(model, invoke.arguments, invoke.keywords)
    return replace(invoke, arguments=arguments, keywords=keywords)


def _reads_every_step(invokes: Sequence[Invoke], subscription: Subscription) -> bool:
    """Tell whether something is read at every step, or at steps that are checked afterwards."""
    return bool(subscription.operations) or any(invoke.steps is not None for invoke in invokes)


@contextmanager
def _forward_context(
    reads_every_step: bool = False, with_gradients: bool = False
) -> Iterator[None]:
    """Turn gradients off or on, and silence nnsight's deprecation warnings.

    With ``reads_every_step`` also silence its warnings of an iteration that ended with the run.
    """
    with torch.set_grad_enabled(with_gradients), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="nnsight")
        if reads_every_step:
            warnings.filterwarnings("ignore", message=r"'.*' was never reached")
            warnings.filterwarnings("ignore", message="Execution complete but `.*` was not")
        yield


def _body_of_last_invoke(subscription: Subscription) -> Callable[[Any, Any], None]:
    """Return the body of the invoke after those of the prompts, which sees the whole batch."""

    def body(model: Any, tracer: Any) -> None:
        subscribe(model, tracer, subscription)
        _differentiate(model, tracer, subscription)

    return body


def _differentiate(model: Any, tracer: Any, subscription: Subscription) -> None:
    if subscription.differentiate is not None:
        subscription.differentiate(model, tracer)
