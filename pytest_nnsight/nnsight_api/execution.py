"""Run one forward pass, one generation or one scan under nnsight, on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from typing import Any

import torch

from pytest_nnsight.errors import UsageError, one_line
from pytest_nnsight.nnsight_api.attachments import remove_cache_hooks
from pytest_nnsight.nnsight_api.invokes import Invoke, adapt, intervene_in, read_result, run_invokes
from pytest_nnsight.nnsight_api.module_tree import torch_module
from pytest_nnsight.nnsight_api.subscription import Subscription, subscribe
from pytest_nnsight.nnsight_api.version import version

# Torch's words where a model needs a number, or arithmetic that the meta device lacks.
_NEEDS_NUMBERS = ("DataDependent", "meta tensor", "unsupported scalarType", "for autocast")


def run_trace(model: Any, invokes: Sequence[Invoke], subscription: Subscription) -> None:
    """Run one forward pass; ``subscription`` receives the values while they are computed.

    nnsight reads the source of each ``with``, which therefore stands on a line of its own.
    """
    invokes = [adapt(model, invoke) for invoke in invokes]
    first, *others = invokes
    body = partial(_subscribe_and_differentiate, subscription)
    with _forward_context(invokes, subscription):
        if others or subscription.operations:
            with model.trace() as tracer:
                run_invokes(model, tracer, invokes, body, subscription.operations)
        else:
            with model.trace(*first.arguments, **first.keywords) as tracer:
                subscribe(model, tracer, subscription)
                intervene_in(model, tracer, first)
                if subscription.differentiate is not None:
                    subscription.differentiate(model, tracer)
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
    invokes = [adapt(model, invoke) for invoke in invokes]
    first, *others = invokes
    ids: list[Any] = []
    body = partial(_subscribe_and_differentiate, subscription)
    with _forward_context(invokes, subscription):
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
    invoke = adapt(model, invoke)
    try:
        with _forward_context([invoke], subscription):
            with model.scan(*invoke.arguments, **invoke.keywords) as tracer:
                subscribe(model, tracer, subscription)
                intervene_in(model, tracer, invoke)
    except Exception as error:
        # Before 0.8 nnsight puts a traceback in front of the reason.
        lines = f"{type(error).__name__} {error}".splitlines()
        reasons = [line.strip() for line in lines if any(w in line for w in _NEEDS_NUMBERS)]
        if not reasons:
            raise
        raise UsageError(
            f"cannot scan {type(torch_module(model)).__name__}: transformers "
            f"{metadata.version('transformers')} needs more than shapes for it "
            f"({one_line(reasons[-1], 120)}); 5.23 does not for most models"
        ) from error
    finally:
        remove_cache_hooks(model)


@contextmanager
def _forward_context(invokes: Sequence[Invoke], subscription: Subscription) -> Iterator[None]:
    """Turn gradients off or on, and silence nnsight's deprecation warnings.

    Where something is read at every step, or at steps that are checked afterwards, also silence
    its warnings of an iteration that ended with the run.
    """
    with_gradients = subscription.differentiate is not None
    with torch.set_grad_enabled(with_gradients), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="nnsight")
        if subscription.operations or any(invoke.steps is not None for invoke in invokes):
            warnings.filterwarnings("ignore", message=r"'.*' was never reached")
            warnings.filterwarnings("ignore", message="Execution complete but `.*` was not")
        yield


def _subscribe_and_differentiate(subscription: Subscription, model: Any, tracer: Any) -> None:
    """Run in the invoke after those of the prompts, which sees the whole batch."""
    subscribe(model, tracer, subscription)
    if subscription.differentiate is not None:
        subscription.differentiate(model, tracer)
