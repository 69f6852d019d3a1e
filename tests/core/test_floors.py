"""Imports go down only; DESIGN.md has the floors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_nnsight

ROOT = Path(pytest_nnsight.__file__).parent
PACKAGE = "pytest_nnsight"
EDGE = {"plugin", "session", "shared_model", "loaded", "binding", "pruning", "reporting", "records"}
EDGE |= {"cli", "suite", "difference", "away", "failures", "progress", "naming"}
SERVICES = {"models", "capture", "golden", "isolation", "guard", "report", "upgrade"}
# these run beside the model, the rest of the core on files
CORE = {
    "errors": set(),
    "options": {"errors"},
    "settings": {"errors", "options"},
    "run": {"errors"},
    "outcomes": {"errors"},
    "summary": {"errors", "run"},
    "compare": {"errors", "run", "summary"},
    "diagnose": {"errors", "run", "compare"},
}
SUMMARY = {  # the modules of one room, each with those of the room that it may import
    "packing": set(),
    "fingerprint": set(),
    "projection": set(),
    "checksum": {"projection"},
    "statistics": {"projection", "checksum"},
    "summarizer": {"statistics", "packing"},
}
COMPARE = {  # the modules of one room, each with those of the room that it may import
    "drift": {"distance"},
    "distance": set(),
    "pairing": set(),
    "alignment": set(),
    "evidence": set(),
    "inputs": {"drift"},
    "bits": {"distance"},
    "choice": {"distance"},
    "timeline": {"pairing"},
    "pooling": {"distance", "timeline"},
    "tolerance": {"distance", "timeline", "pooling", "evidence"},
}
COMPARE["comparison"] = {*COMPARE} - {"evidence", "alignment"}
BARE = {*CORE} - {"summary"} | {"golden", "report", "cli"}
FILES = sorted(path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("*.py"))


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
    if room in BARE or file == Path("summary/packing"):
        assert not libraries & {"torch", "transformers"}
    if room in BARE - EDGE:
        of_summary = {
            name.split(".")[2] for name in names if name.startswith(f"{PACKAGE}.summary.")
        }
        assert of_summary <= {"packing"}


@pytest.mark.parametrize(
    ("room", "module"),
    [*(("compare", name) for name in COMPARE), *(("summary", name) for name in SUMMARY)],
)
def test_the_modules_of_a_room_have_an_order(room: str, module: str) -> None:
    """Or a room would be one heap of modules that import each other."""
    tree = ast.parse((ROOT / room / f"{module}.py").read_text())
    names = [name.split(".") for name in imported(tree) if name.startswith(f"{PACKAGE}.{room}.")]
    assert {name[2] for name in names} <= {"compare": COMPARE, "summary": SUMMARY}[room][module]


def test_the_floors_of_the_core_have_no_circle() -> None:
    below: set[str] = set()
    for room, imports in CORE.items():
        assert imports <= below, room
        below.add(room)
    left = COMPARE | SUMMARY
    while free := [module for module, imports in left.items() if not imports & {*left}]:
        left = {module: imports for module, imports in left.items() if module not in free}
    assert not left


def test_every_room_of_the_core_is_there() -> None:
    """Or a floor would be held for a module that is no more."""
    assert {*CORE} <= {file.parts[0] for file in FILES}
    for room, modules in (("compare", COMPARE), ("summary", SUMMARY)):
        inside = {file.stem for file in FILES if file.parts[0] == room}
        assert {*modules, "__init__"} == inside
