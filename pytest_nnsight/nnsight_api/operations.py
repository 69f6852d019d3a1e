"""Read operations inside a module's forward (nnsight's ``.source``), by the same names everywhere.

An operation is a call in the source, named after the function: ``nn.functional.softmax(...)`` is
``nn_functional_softmax``, and its second call ``nn_functional_softmax.1``. nnsight's own labels end
in a number, which differs between versions: since 0.8 assignments are counted too
(https://github.com/ndif-team/nnsight/pull/686), so that ``attention_interface_0`` has become
``attention_interface_1``.
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
from pytest_nnsight.nnsight_api.module_tree import envoys, torch_paths
from pytest_nnsight.nnsight_api.version import version

SOURCE = ".source."
"""Stands between a module's path and an operation's name, and before each inner operation."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation to read: ``name`` in the forward of ``module``, or those that it calls.

    ``inner`` is a glob over the operations inside ``name``; if given, these are read instead.
    ``receive`` is called with (path of the operation, ``inputs`` or ``output``, value).
    """

    module: str
    name: str
    receive: Callable[[str, str, Any], object]
    reads_inputs: bool
    inner: str = ""

    @property
    def path(self) -> str:
        """The operation's path, ``transformer.h.0.attn.source.attention_interface``."""
        return f"{self.module}{SOURCE}{self.name}"

    def reader(self, model: Any) -> Callable[[], None]:
        """Return a function that reads the values of one visit, in the body of a trace."""
        source = _envoy(model, self.module).source
        node = getattr(source, labels(source)[self.name])
        globs = self.inner.split(SOURCE) if self.inner else []
        return partial(self._read, self.path, node, globs)

    def _read(self, path: str, node: Any, globs: list[str]) -> None:
        """Read a call, or with ``globs`` those inside it: their source is found when it runs."""
        if not globs:
            if self.reads_inputs:
                self.receive(path, "inputs", node.inputs)
            self.receive(path, "output", node.output)
            return
        source = node.source
        named = labels(source)
        found = [name for name in named if fnmatch.fnmatchcase(name, globs[0])]
        if not found:
            there = ", ".join(named)
            raise UsageError(f"{path}{SOURCE}{globs[0]} is not there; there are {there}")
        for name in found:
            self._read(f"{path}{SOURCE}{name}", getattr(source, named[name]), globs[1:])


def operation_names(model: Any, module: str) -> list[str]:
    """Return the names of the operations in a module's forward, in the order of the source.

    Raise `UsageError` where nnsight cannot read its source.
    """
    try:
        return list(labels(_envoy(model, module).source))
    except Exception as error:  # another class in each version of nnsight
        raise UsageError(f"{module} has no source that nnsight can read ({error!s:.80})") from error


def labels(source: Any) -> dict[str, str]:
    """Map the names of a source's operations to nnsight's labels for them."""
    named: dict[str, str] = {}
    seen: Counter[str] = Counter()
    calls, assignments = _calls_and_assignments(source)
    for label in calls:
        name = re.sub(r"_\d+$", "", label)
        named[f"{name}.{seen[name]}" if seen[name] else name] = label
        seen[name] += 1
    for label in assignments:
        named.setdefault(re.sub(r"_\d+$", "", label), label)
    return named


def _calls_and_assignments(source: Any) -> tuple[list[str], list[str]]:
    """Return the labels of calls, and of assignments, which are operations since nnsight 0.8."""
    if version() < (0, 8):
        lines = source.accessor if version() >= (0, 7) else source
        return list(lines.line_numbers), []
    from nnsight.intervention.source import BIND, OP, Instrument

    tree = Instrument().visit(ast.parse(source.compiled.source))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    operations = [node.args for node in nodes if getattr(node.func, "id", "") == OP]
    bound = {
        label.value.removeprefix("source.")  # type: ignore[attr-defined]
        for label, function, *_ in operations
        if getattr(function, "id", "") == BIND
    }
    names = list(source.names)
    return [n for n in names if n not in bound], [n for n in names if n in bound]


def _envoy(model: Any, path: str) -> Any:
    return envoys(model, torch_paths(model), [path])[0]
