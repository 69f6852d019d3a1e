"""An error of a test -> what the usual mistake behind it is, and the way out, in one line.

nnsight's words for one mistake differ between its versions; before 0.8 they come wrapped, with the
error itself as last line of a traceback.
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
from pytest_nnsight.nnsight_api.body import Body
from pytest_nnsight.nnsight_api.tree import named_modules, torch_module

_MISSED = re.compile(r"model\.([\w.]+)\.(?:output|input)s?\.i(\d+)")
_TUPLE = re.compile(r"'tuple' object (?:has no attribute|does not support item|is not callable)")
_NO_MODULE = re.compile(r"has (?:no )?attribute '?(\w+)'?$")
_NO_INPUT = ("outside of interleaving", "nor has a fake output", "model did not execute")
_ASSERTED = "an assert inside a trace, of which pytest shows no values"
_UNBOUND = re.compile(r"(?:local variable|name) '(\w+)'")


@dataclass(frozen=True, slots=True)
class _Case:
    """An error, its last line, the model, and the source of the test."""

    error: BaseException
    line: str
    model: Any
    body: Body | None


def explain(error: BaseException, model: Any, function: Callable[..., Any]) -> str | None:
    """Say what was done wrong, and what to do; ``None`` for what is no known mistake."""
    lines = text_of(error).strip().splitlines() or [""]
    case = _Case(error, lines[-1].strip(), model, Body.of(function))
    return next((told for rule in _RULES if (told := rule(case)) is not None), None)


def _missed(case: _Case) -> str | None:
    """A value that did not come, or no more."""
    found = _MISSED.search(case.line)
    words = ("ran past", "was missed", "not provided")
    if found is None or not any(word in case.line for word in words):
        return None
    path, step = found[1], int(found[2])
    if step:
        return f"{path} was not called a {step + 1}. time: fewer steps ran than are asked for"
    order = _order(case.model)
    if order and path not in order:
        return f"{path} is never called when the model runs; read a module that is"
    reads = [name for name in case.body.reads() if name in order] if case.body else []
    right = ", ".join(sorted(reads, key=order.index))
    told = f": {right}" if len(reads) > 1 else ""
    return f"{path} had run already; read modules in the order in which they run{told}"


def _order(model: Any) -> list[str]:
    """Return the paths of all modules in the order in which they end, by a run of plain torch."""
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
    except Exception:  # what a model of another kind takes is not known here; then neither is this
        return []
    finally:
        for handle in handles:
            handle.remove()
    return list(dict.fromkeys(order))


def _unbound(case: _Case) -> str | None:
    """A name that has no value behind the trace in which it got one."""
    found = _UNBOUND.search(case.line)
    if not isinstance(case.error, NameError) or found is None or case.body is None:
        return None
    name = found[1]
    if case.body.comes_late(name):
        return (
            f"{name} stands behind an iteration over all steps, where nothing runs any more; "
            "give the iteration an end, or put what follows into an invoke of its own"
        )
    if case.body.unsaved(name):
        return f"{name} was not saved: inside the trace write {name} = ....save()"
    if case.body.may_be_cut_short(name):
        return (
            f"{name} has no value: the iteration asks for more steps than were generated, and was "
            "cut short there; ask for steps that run (max_new_tokens, or the model ended earlier)"
        )
    return None


def _other_words(case: _Case) -> str | None:
    """What each version says in words of its own."""
    line = case.line
    if any(words in line for words in _NO_INPUT):
        return "the trace has no input: give it a prompt, trace(prompt), or open an invoke in it"
    if "WithBlockNotFoundError" in "".join(kind.__name__ for kind in type(case.error).__mro__):
        return "nnsight 0.5 iterates with `with tracer.iter[...]:`, not with a for loop"
    if _TUPLE.search(line) and case.body is not None and case.body.reads():
        return "the value is a tuple, the tensor is its first element: .output[0]"
    if "meta" in line and ("device" in line or "tensor" in line):
        return (
            "a tensor on the meta device has no numbers: a weight that accelerate has put off, or "
            "a model that is not dispatched"
        )
    if "same device" in line or "expected device" in line:
        return "your tensor is on another device than the value: .to(value.device)"
    return None


def _nested(case: _Case) -> str | None:
    """An invoke in an invoke, which nnsight meets with errors of many kinds."""
    if case.body is None or not case.body.nests_invokes():
        return None
    return "an invoke was opened inside of another: open them one after the other"


def _tokenizer(case: _Case) -> str | None:
    if getattr(case.model, "tokenizer", "") is not None:
        return None
    return "the model has no tokenizer: give token ids, or tokenizer= where the model is wrapped"


def _no_module(case: _Case) -> str | None:
    """A module that is not there."""
    found = _NO_MODULE.search(case.line)
    is_index = isinstance(case.error, IndexError) and "list index" in case.line
    if not isinstance(case.error, AttributeError) or found is None:
        return "there is no module of that number" if is_index and _reads(case) else None
    if "Envoy" not in str(case.error) and "(" not in str(case.error):
        return None
    names = {part for path in named_modules(case.model) for part in path.split(".")}
    near = sorted(name for name in names if name and not name.isdigit())
    if found[1].isdigit():
        count = max((int(name) for name in names if name.isdigit()), default=-1) + 1
        return f"there is no module of number {found[1]}; the longest list has {count}"
    return f"no module is called {found[1]}; nearest: {suggest(found[1], near)}"


def _reads(case: _Case) -> bool:
    return case.body is not None and bool(case.body.reads())


def _assertion(case: _Case) -> str | None:
    """An ``assert`` in the body of a trace, whose values pytest cannot show."""
    if not isinstance(case.error, AssertionError) or case.body is None:
        return None
    for frame, line in reversed([*traceback.walk_tb(case.error.__traceback__)]):
        statement = case.body.assertion(line)
        if statement is not None:
            names = {**frame.f_globals, **frame.f_locals}
            shown = [text for side in _sides(statement.test) if (text := _value(side, names))]
            values = f": {', '.join(shown)}" if shown else ""
            return f"{_ASSERTED}{values}"
    told = re.search(r"line (\d+), in", str(case.error))  # before 0.8, as text
    return _ASSERTED if told and case.body.assertion(int(told[1])) is not None else None


def _sides(test: ast.expr) -> list[ast.expr]:
    return [test.left, *test.comparators] if isinstance(test, ast.Compare) else [test]


def _value(side: ast.expr, names: dict[str, Any]) -> str:
    """Write what a side of a comparison comes to; nothing for a constant, or what cannot be had."""
    if isinstance(side, ast.Constant):
        return ""
    try:
        value = eval(compile(ast.Expression(side), "<assert>", "eval"), names)
    except Exception:  # a value that is there but once, as nnsight hands it out
        return ""
    text = f"shape {list(value.shape)}" if getattr(value, "ndim", 0) else repr(value)
    return f"{ast.unparse(side)} is {text[:80]}"


_RULES: tuple[Callable[[_Case], str | None], ...] = (
    _nested,
    _missed,
    _unbound,
    _assertion,
    _other_words,
    _no_module,
    _tokenizer,
)
