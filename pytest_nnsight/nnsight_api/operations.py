"""Operations inside of a module's forward: nnsight's ``.source``, by names that every version has.

An operation is called by the function that is called, as it stands in the source: ``softmax`` of
``nn.functional.softmax(...)`` is ``nn_functional_softmax``, a second call of it
``nn_functional_softmax.1``. nnsight itself adds a number, which on 0.8 counts assignments as well:
what was ``attention_interface_0`` is ``attention_interface_1`` there.
"""

from __future__ import annotations

import ast
import fnmatch
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pytest_nnsight.errors import UsageError
from pytest_nnsight.nnsight_api.tree import envoys, torch_paths
from pytest_nnsight.nnsight_api.version import version

STEP_INTO = ".source."


@dataclass(frozen=True, slots=True)
class Operation:
    """Operations of one module, to be read: ``name`` is one of its own, ``inner`` a glob below it.

    ``receive`` is handed (path of the operation, ``inputs`` or ``output``, value).
    """

    module: str
    name: str
    receive: Callable[[str, str, Any], None]
    reads_inputs: bool
    inner: str = ""

    @property
    def path(self) -> str:
        """The operation's path, ``transformer.h.0.attn.source.attention_interface``."""
        return f"{self.module}{STEP_INTO}{self.name}"

    def reader(self, model: Any) -> Callable[[], None]:
        """Return what reads the values of one visit, in the body of a trace."""
        source = _envoy(model, self.module).source
        node = getattr(source, labels(source)[self.name])
        if self.inner:
            return partial(self._read_inside, self.path, node, self.inner.split(STEP_INTO))
        return partial(self._read, self.path, node)

    def _read(self, path: str, node: Any) -> None:
        if self.reads_inputs:
            self.receive(path, "inputs", node.inputs)
        self.receive(path, "output", node.output)

    def _read_inside(self, path: str, node: Any, globs: list[str]) -> None:
        """Read what a function that is called does inside: known once it is called."""
        first, *rest = globs
        source = node.source
        known = labels(source)
        found = [name for name in known if fnmatch.fnmatchcase(name, first)]
        if not found:
            raise UsageError(f"{path}{STEP_INTO}{first} is not there; there are {', '.join(known)}")
        for name in found:
            inner, inside = getattr(source, known[name]), f"{path}{STEP_INTO}{name}"
            if rest:
                self._read_inside(inside, inner, rest)
            else:
                self._read(inside, inner)


def operation_names(model: Any, module: str) -> list[str]:
    """Return the names of the operations in a module's forward, in the order of the source.

    Raise `UsageError` where nnsight finds no source of it.
    """
    try:
        return list(labels(_envoy(model, module).source))
    except Exception as error:  # nnsight has an error of its own in each version
        raise UsageError(f"{module} has no source that nnsight can read ({error!s:.80})") from error


def labels(source: Any) -> dict[str, str]:
    """Map the names of a source's operations to nnsight's labels for them."""
    named: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for label in _calls(source):
        name = re.sub(r"_\d+$", "", label)
        named[f"{name}.{seen[name]}" if seen[name] else name] = label
        seen[name] += 1
    for label in _assignments(source):
        named.setdefault(re.sub(r"_\d+$", "", label), label)
    return named


def _calls(source: Any) -> list[str]:
    if version() >= (0, 8):
        bound = set(_assignments(source))
        return [label for label in source.names if label not in bound]
    lines = source.accessor if version() >= (0, 7) else source
    return list(lines.line_numbers)


def _assignments(source: Any) -> list[str]:
    """Return the labels of assignments, which only 0.8 has among its operations."""
    if version() < (0, 8):
        return []
    from nnsight.intervention.source import BIND, OP, Instrument

    tree = Instrument().visit(ast.parse(source.compiled.source))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    ours = [c for c in calls if isinstance(c.func, ast.Name) and c.func.id == OP]
    bound = [c for c in ours if isinstance(c.args[1], ast.Name) and c.args[1].id == BIND]
    named = {c.args[0].value.removeprefix("source.") for c in bound}  # type: ignore[attr-defined]
    return [label for label in source.names if label in named]


def _envoy(model: Any, path: str) -> Any:
    return envoys(model, torch_paths(model), [path])[0]
