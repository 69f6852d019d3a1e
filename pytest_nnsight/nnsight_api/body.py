"""What the source of a test says of its traces: what is read, what is saved, what comes late."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_OPENS = ("trace", "generate", "invoke", "session", "scan", "edit")
_OVER_ALL = r"\.iter\[[^\]]*:\]|\.all\(\)"
_OVER_STEPS = r"\.iter\[|\.all\(\)"
_READS = ("output", "input", "inputs")


@dataclass(frozen=True, slots=True)
class Body:
    """The statements of a test function, with the lines of its file."""

    tree: ast.AST
    first_line: int

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Body | None:
        """Read a function's source; ``None`` where it is not at hand."""
        try:
            lines, start = inspect.getsourcelines(inspect.unwrap(function))
            return cls(ast.parse(textwrap.dedent("".join(lines))), start)
        except (OSError, TypeError, SyntaxError):
            return None

    def reads(self) -> list[str]:
        """Return the paths of the modules whose values are read, in the order of the source."""
        nodes = [n for n in ast.walk(self.tree) if isinstance(n, ast.Attribute)]
        found = [n for n in nodes if n.attr in _READS]
        found.sort(key=lambda n: (n.lineno, n.col_offset))
        return [*dict.fromkeys(path for n in found if (path := _path(n.value)))]

    def traces(self) -> Iterator[ast.With]:
        """Yield every ``with`` that opens a trace, or part of one."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.With) and any(map(_opens, node.items)):
                yield node

    def nests_invokes(self) -> bool:
        """Tell whether an invoke is opened inside of another."""
        invokes = [w for w in self.traces() if any(_opens(i, ("invoke",)) for i in w.items)]
        return any(inner in ast.walk(w) for w in invokes for inner in invokes if inner is not w)

    def unsaved(self, name: str) -> bool:
        """Tell whether a name is given a value inside a trace, and never saved."""
        values = [
            ast.unparse(node.value)
            for trace in self.traces()
            for node in ast.walk(trace)
            if isinstance(node, ast.Assign) and name in _names(node)
        ]
        return bool(values) and not any("save(" in value for value in values)

    def comes_late(self, name: str) -> bool:
        """Tell whether a name is given a value behind an iteration without an end."""
        return any(name in _given(after) for _, after in self._iterations(_OVER_ALL))

    def may_be_cut_short(self, name: str) -> bool:
        """Tell whether a name is given a value in an iteration over steps, or behind one."""
        return any(name in _given([it, *after]) for it, after in self._iterations(_OVER_STEPS))

    def _iterations(self, kind: str) -> Iterator[tuple[ast.stmt, list[ast.stmt]]]:
        """Yield each iteration of a kind in a trace, and the statements that follow it."""
        for trace in self.traces():
            for place, statement in enumerate(trace.body):
                if re.search(kind, _over(statement)):
                    yield statement, trace.body[place + 1 :]

    def assertion(self, line: int) -> ast.Assert | None:
        """Return the ``assert`` inside a trace that stands on a line of the file."""
        for trace in self.traces():
            for node in ast.walk(trace):
                at = getattr(node, "lineno", 0) + self.first_line - 1
                if isinstance(node, ast.Assert) and at == line:
                    return node
        return None


def _opens(item: ast.withitem, names: Sequence[str] = _OPENS) -> bool:
    call = item.context_expr
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in names
    )


def _names(statement: ast.Assign) -> list[str]:
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]


def _given(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the names that some statements give a value to."""
    nodes = [node for statement in statements for node in ast.walk(statement)]
    return {name for n in nodes if isinstance(n, ast.Assign) for name in _names(n)}


def _over(statement: ast.stmt) -> str:
    """Return what a statement iterates over, as text."""
    if isinstance(statement, ast.For):
        return ast.unparse(statement.iter)
    if isinstance(statement, ast.With):
        return " ".join(ast.unparse(item.context_expr) for item in statement.items)
    return ""


def _path(node: ast.expr) -> str:
    """Write ``model.transformer.h[0]`` as torch names it: ``transformer.h.0``."""
    text = re.sub(r"\[(\d+)\]", r".\1", ast.unparse(node))
    first, _, path = text.partition(".")
    return path if re.fullmatch(r"\w+", first) and re.fullmatch(r"[\w.]+", path) else ""
