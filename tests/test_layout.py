"""Imports go down only, and no group of files imports in a circle. DESIGN: the layout."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pytest_nnsight

ROOT = Path(pytest_nnsight.__file__).parent
PACKAGE = "pytest_nnsight"
LAYERS = {  # from top to bottom; a subpackage imports from layers below its own
    "edge": {"plugin", "cli"},
    "jobs": {"upgrade"},
    "services": {"capture", "golden", "report", "models", "guard", "isolation"},
    "diagnosis": {"diagnose"},
    "comparison": {"compare"},
    "summary": {"summary"},
    "border": {"nnsight_api"},
    "shared": {"run", "settings", "options", "errors", "__init__"},
}
LEVEL = {name: level for level, names in enumerate(LAYERS.values()) for name in names}
TOP_LEVEL = {"__init__", "errors", "run", "options", "settings"}
HEAVY = {"torch", "transformers", "nnsight", "accelerate"}
# What works on files alone: a report is made on a laptop without the model's libraries.
WITHOUT_TORCH = {"compare", "diagnose", "golden", "report", "cli", "upgrade"} | TOP_LEVEL
WITHOUT_TORCH_FILES = {"summary/packing", "summary/rows"}
MOST_LAYERS = 5  # inside a subpackage
FILES = sorted(path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a module imports anywhere, but for type checking."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        yield from imported(node)


def names_of(file: Path) -> list[str]:
    return [*imported(ast.parse((ROOT / file).with_suffix(".py").read_text(encoding="utf-8")))]


def siblings(folder: str) -> dict[str, set[str]]:
    """Return, for each file of a subpackage, the files of it that it imports."""
    files = {file.name: file for file in FILES if file.parts[0] == folder and len(file.parts) == 2}
    found: dict[str, set[str]] = {}
    for name, file in files.items():
        parts = [n.split(".") for n in names_of(file) if n.startswith(f"{PACKAGE}.{folder}.")]
        found[name] = {part[2] for part in parts if part[2] in files} - {name}
    return found


def test_the_top_level_holds_what_everything_shares() -> None:
    assert {file.name for file in FILES if len(file.parts) == 1} == TOP_LEVEL


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_down(file: Path) -> None:
    names = names_of(file)
    own = file.parts[0]
    assert own in LEVEL, f"{own} is in no layer"
    used = {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")}
    for other in used - {own, "__version__"}:
        is_shared = own in TOP_LEVEL and other in TOP_LEVEL
        assert is_shared or LEVEL[other] > LEVEL[own], f"{own} imports {other}"
    libraries = {name.split(".")[0] for name in names}
    if own != "nnsight_api":
        assert "nnsight" not in libraries
    if own in WITHOUT_TORCH or str(file) in WITHOUT_TORCH_FILES:
        assert not libraries & HEAVY


@pytest.mark.parametrize("folder", sorted({f.parts[0] for f in FILES if len(f.parts) == 2}))
def test_the_files_of_a_subpackage_import_in_few_layers_and_no_circle(folder: str) -> None:
    sorter = TopologicalSorter(siblings(folder))
    sorter.prepare()  # raises CycleError, which names the files
    layers = 0
    while sorter.is_active():
        ready = sorter.get_ready()
        sorter.done(*ready)
        layers += 1
    assert layers <= MOST_LAYERS


def test_keys_import_no_sibling() -> None:
    assert siblings("plugin")["keys"] == set()


def test_files_are_small() -> None:
    sizes = {file: len((ROOT / file).with_suffix(".py").read_text().splitlines()) for file in FILES}
    assert {file: size for file, size in sizes.items() if size > 300} == {}
    assert sizes[Path("plugin/__init__")] <= 200
