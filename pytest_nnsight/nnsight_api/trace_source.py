"""Read in the source of a test what its traces do: which values they read, assign and save."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_OPENS = ("trace", "generate", "invoke", "session", "scan", "edit")
_OPEN_ITERATION = r"\.iter\[[^\]]*:\]|\.all\(\)"
_ITERATION = r"\.iter\[|\.all\(\)"
_READS = ("output", "input", "inputs")


@dataclass(frozen=True, slots=True)
class TraceSource:
    """The source of a test function, and its first line in the file."""

    tree: ast.AST
    first_line: int

    @classmethod
    def of(cls, function: Callable[..., Any]) -> TraceSource:
        """Parse a function's source; return an empty one where it cannot be read."""
        try:
            lines, start = inspect.getsourcelines(inspect.unwrap(function))
            return cls(ast.parse(textwrap.dedent("".join(lines))), start)
        except (OSError, TypeError, SyntaxError):
            return cls(ast.Module([], []), 1)

    def reads(self) -> list[str]:
        """Return the paths of the modules whose values are read, in the order of the source."""
        nodes = [n for n in ast.walk(self.tree) if isinstance(n, ast.Attribute)]
        found = [n for n in nodes if n.attr in _READS]
        found.sort(key=lambda n: (n.lineno, n.col_offset))
        return [*dict.fromkeys(path for n in found if (path := _path(n.value)))]

    def traces(self, names: Sequence[str] = _OPENS) -> Iterator[ast.With]:
        """Yield every ``with`` that opens a trace, or part of one, by a method of these names."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.With):
                calls = [i.context_expr for i in node.items if isinstance(i.context_expr, ast.Call)]
                if any(getattr(call.func, "attr", "") in names for call in calls):
                    yield node

    def nests_invokes(self) -> bool:
        """Tell whether an invoke is opened inside another one."""
        invokes = [*self.traces(("invoke",))]
        return any(inner in ast.walk(w) for w in invokes for inner in invokes if inner is not w)

    def is_assigned_and_unsaved(self, name: str) -> bool:
        """Tell whether a variable is assigned inside a trace, and never saved."""
        values = [
            ast.unparse(node.value)
            for trace in self.traces()
            for node in ast.walk(trace)
            if isinstance(node, ast.Assign) and name in _names(node)
        ]
        return bool(values) and not any("save(" in value for value in values)

    def is_assigned_after_open_iteration(self, name: str) -> bool:
        """Tell whether a variable is assigned after an iteration over all steps."""
        return any(name in _assigned(after) for _, after in self._iterations(_OPEN_ITERATION))

    def may_miss_steps(self, name: str) -> bool:
        """Tell whether a variable is assigned in an iteration over steps, or after one."""
        iterations = self._iterations(_ITERATION)
        return any(name in _assigned([loop, *after]) for loop, after in iterations)

    def _iterations(self, pattern: str) -> Iterator[tuple[ast.stmt, list[ast.stmt]]]:
        """Yield each iteration in a trace whose subject matches, and the statements after it."""
        for trace in self.traces():
            for index, statement in enumerate(trace.body):
                header = ast.unparse(statement).partition("\n")[0]
                if isinstance(statement, ast.For | ast.With) and re.search(pattern, header):
                    yield statement, trace.body[index + 1 :]

    def assertion(self, line: int) -> ast.Assert | None:
        """Return the ``assert`` inside a trace that begins on a line of the file."""
        for trace in self.traces():
            for node in ast.walk(trace):
                line_in_file = getattr(node, "lineno", 0) + self.first_line - 1
                if isinstance(node, ast.Assert) and line_in_file == line:
                    return node
        return None


def _names(statement: ast.Assign) -> list[str]:
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]


def _assigned(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the names of variables in the assignments among some statements."""
    nodes = [node for statement in statements for node in ast.walk(statement)]
    return {name for n in nodes if isinstance(n, ast.Assign) for name in _names(n)}


def _path(node: ast.expr) -> str:
    """Write ``model.transformer.h[0]`` as torch names it: ``transformer.h.0``."""
    text = re.sub(r"\[(\d+)\]", r".\1", ast.unparse(node))
    first, _, path = text.partition(".")
    return path if re.fullmatch(r"\w+", first) and re.fullmatch(r"[\w.]+", path) else ""
