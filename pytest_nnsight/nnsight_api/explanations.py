"""Explain an error of a test by a common mistake with nnsight, and say in one line how to fix it.

Each version of nnsight words an error differently. Before 0.8 the message is a traceback as text,
and the error itself is its last line.
"""

from __future__ import annotations

import ast
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pytest_nnsight.errors import suggest, text_of
from pytest_nnsight.nnsight_api.module_tree import named_modules, torch_module
from pytest_nnsight.nnsight_api.trace_source import TraceSource

_MISSED = re.compile(r"model\.([\w.]+)\.(?:output|input)s?\.i(\d+)")
_TUPLE = re.compile(r"'tuple' object (?:has no attribute|does not support item|is not callable)")
_NO_MODULE = re.compile(r"has (?:no )?attribute '?(\w+)'?$")
_NO_INPUT = ("outside of interleaving", "nor has a fake output", "model did not execute")
_ASSERTED = "an assert inside a trace failed, where pytest cannot show its values"
_UNBOUND = re.compile(r"(?:local variable|name) '(\w+)'")


@dataclass(frozen=True, slots=True)
class _Failure:
    """An error, its last line, the model, and the source of the test."""

    error: BaseException
    line: str
    model: Any
    source: TraceSource


def explain(error: BaseException, model: Any, function: Callable[..., Any]) -> str | None:
    """Return what the test ``function`` did wrong and how to fix it, or ``None`` if unknown."""
    lines = text_of(error).strip().splitlines() or [""]
    failure = _Failure(error, lines[-1].strip(), model, TraceSource.of(function))
    return next((hint for rule in _RULES if (hint := rule(failure)) is not None), None)


def _missed(failure: _Failure) -> str | None:
    """Explain a read of a module that has run before, never runs, or runs at fewer steps."""
    found = _MISSED.search(failure.line)
    words = ("ran past", "was missed", "not provided")
    if found is None or not any(word in failure.line for word in words):
        return None
    path, step = found[1], int(found[2])
    if step:
        return f"{path} ran at fewer than {step + 1} steps; ask for steps that run"
    order = _execution_order(failure.model)
    if order and path not in order:
        return f"{path} is never called when the model runs; read a module that is"
    reads = [name for name in failure.source.reads() if name in order]
    right = f": {', '.join(sorted(reads, key=order.index))}" if len(reads) > 1 else ""
    return f"{path} had run already; read modules in the order in which they run{right}"


def _execution_order(model: Any) -> list[str]:
    """Return the paths of all modules in the order in which they return, by running the model.

    Empty for a model that has no dummy inputs or cannot run with them.
    """
    module, order = torch_module(model), list[str]()
    inputs = getattr(module, "dummy_inputs", None)
    if not isinstance(inputs, dict):
        return []
    handles = [
        each.register_forward_hook(lambda *_, path=path: order.append(path))
        for path, each in named_modules(model).items()
    ]
    try:
        with torch.no_grad():
            device = next(module.parameters()).device
            module(**{name: value.to(device) for name, value in inputs.items()})
    except Exception:  # the dummy inputs do not suit every model
        return []
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(order))


def _unbound(failure: _Failure) -> str | None:
    """Explain a variable that was assigned inside a trace and has no value after it."""
    found = _UNBOUND.search(failure.line)
    if not isinstance(failure.error, NameError) or found is None:
        return None
    name = found[1]
    if failure.source.is_assigned_after_open_iteration(name):
        return (
            f"{name} is assigned after an iteration over all steps, where nnsight runs no code; "
            "give the iteration an end, or put what follows into an invoke of its own"
        )
    if failure.source.is_assigned_and_unsaved(name):
        return f"{name} was not saved: inside the trace write {name} = ....save()"
    if failure.source.may_miss_steps(name):
        return (
            f"{name} has no value: the iteration asks for more steps than were generated, and "
            "nnsight stopped it there; ask for steps that run (max_new_tokens, or the model ended "
            "earlier)"
        )
    return None


def _known_message(failure: _Failure) -> str | None:
    """Explain errors that are recognised by their message alone."""
    line = failure.line
    if any(words in line for words in _NO_INPUT):
        return "the trace has no input: give it a prompt, trace(prompt), or open an invoke in it"
    if "WithBlockNotFoundError" in "".join(kind.__name__ for kind in type(failure.error).__mro__):
        return "nnsight 0.5 iterates with `with tracer.iter[...]:`, not with a for loop"
    if _TUPLE.search(line) and failure.source.reads():
        return "the value is a tuple, the tensor is its first element: .output[0]"
    if "meta" in line and ("device" in line or "tensor" in line):
        return (
            "a tensor on the meta device has no numbers: a weight that accelerate has offloaded, "
            "or a model that is not dispatched"
        )
    if "same device" in line or "expected device" in line:
        return "your tensor is on another device than the value: .to(value.device)"
    return None


def _nested(failure: _Failure) -> str | None:
    """Explain an invoke inside another one, for which nnsight raises many kinds of errors."""
    if failure.source.nests_invokes():
        return "an invoke was opened inside of another: open them one after the other"
    return None


def _tokenizer(failure: _Failure) -> str | None:
    if getattr(failure.model, "tokenizer", "") is not None:
        return None
    return "the model has no tokenizer: give token ids, or tokenizer= where the model is wrapped"


def _no_module(failure: _Failure) -> str | None:
    """Explain a name or number that no module has."""
    found = _NO_MODULE.search(failure.line)
    if isinstance(failure.error, IndexError) and "list index" in failure.line:
        return "there is no module of that number" if failure.source.reads() else None
    if not isinstance(failure.error, AttributeError) or found is None:
        return None
    if "Envoy" not in str(failure.error) and "(" not in str(failure.error):
        return None
    names = {part for path in named_modules(failure.model) for part in path.split(".")}
    near = sorted(name for name in names if name and not name.isdigit())
    if found[1].isdigit():
        count = max((int(name) for name in names if name.isdigit()), default=-1) + 1
        return f"there is no module of number {found[1]}; the longest list has {count}"
    return f"no module is called {found[1]}; nearest: {suggest(found[1], near)}"


def _assertion(failure: _Failure) -> str | None:
    """Show the values of a failed ``assert`` inside a trace, which pytest cannot show."""
    if not isinstance(failure.error, AssertionError):
        return None
    for frame, line in reversed([*traceback.walk_tb(failure.error.__traceback__)]):
        statement = failure.source.assertion(line)
        if statement is not None:
            test, names = statement.test, {**frame.f_globals, **frame.f_locals}
            sides = [test.left, *test.comparators] if isinstance(test, ast.Compare) else [test]
            shown = [text for side in sides if (text := _value(side, names))]
            return f"{_ASSERTED}: {', '.join(shown)}" if shown else _ASSERTED
    found = re.search(r"line (\d+), in", str(failure.error))  # before 0.8, as text
    return _ASSERTED if found and failure.source.assertion(int(found[1])) is not None else None


def _value(side: ast.expr, names: dict[str, Any]) -> str:
    """Write one side of a comparison and its value; nothing for a constant or an error."""
    if isinstance(side, ast.Constant):
        return ""
    try:
        value = eval(compile(ast.Expression(side), "<assert>", "eval"), names)
    except Exception:  # nnsight gives each value out only once
        return ""
    text = f"shape {list(value.shape)}" if getattr(value, "ndim", 0) else repr(value)
    return f"{ast.unparse(side)} is {text[:80]}"


_RULES: tuple[Callable[[_Failure], str | None], ...] = (
    _nested,
    _missed,
    _unbound,
    _assertion,
    _known_message,
    _no_module,
    _tokenizer,
)
