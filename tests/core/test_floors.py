"""Imports go down only; DESIGN.md has the floors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_nnsight

ROOT = Path(pytest_nnsight.__file__).parent
PACKAGE = "pytest_nnsight"
EDGE = {"plugin", "session", "binding", "cli", "suite"}
SERVICES = {"models", "capture", "golden", "isolation", "guard", "report", "upgrade"}
CORE = {
    "errors": set(),
    "run": {"errors"},
    "settings": {"errors"},
    "projection": {"errors"},
    "sketch": {"errors", "run", "settings", "projection"},
    "distance": {"errors", "run", "settings"},
    "compare": {"errors", "run", "settings", "distance"},
    "diagnose": {"errors", "run", "settings", "sketch", "distance", "compare"},
}
FILES = sorted(path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("*.py"))
BARE = {"distance", "compare", "diagnose", "golden", "report", "cli", "run", "settings", "errors"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names a module imports, wherever; not those for types alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_down_only(file: Path) -> None:
    names = [*imported(ast.parse((ROOT / file).with_suffix(".py").read_text()))]
    rooms = {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")}
    libraries = {name.split(".")[0] for name in names} - {PACKAGE}
    room = file.parts[0]
    others = rooms - {room, "__version__"}
    assert room in EDGE | SERVICES | {*CORE} | {"nnsight_api", "__init__"}, "a room of no floor"
    assert not others & {"plugin", "cli"}
    if room not in EDGE:
        assert not others & EDGE
    if room in SERVICES:
        assert not others & SERVICES
    if room in CORE:
        assert others <= CORE[room]
    if room == "nnsight_api":
        assert others <= {"errors"}
    if room != "nnsight_api":
        assert "nnsight" not in libraries
    if room in BARE:
        assert not libraries & {"torch", "transformers"}
