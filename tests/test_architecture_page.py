"""`docs/architecture.md` names the layers and functions that the code has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from test_layout import FILES, LAYERS, PACKAGE, ROOT, TOP_LEVEL, names_of

PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^(\d+)\. `([\w/]+)\.([\w.]+)`", PAGE, re.MULTILINE)
MOST_STEPS = 25


def definitions(file: str) -> set[str]:
    """Return the names of the functions and methods of a file."""
    tree = ast.parse((ROOT / file).with_suffix(".py").read_text(encoding="utf-8"))
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            functions = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            found |= {f"{node.name}.{function.name}" for function in functions}
    return found


@pytest.mark.parametrize(("file", "name"), [step[1:] for step in STEPS])
def test_each_step_of_the_page_is_a_function_of_the_package(file: str, name: str) -> None:
    assert name in definitions(file), f"docs/architecture.md names {file}.{name}; correct the page"


def test_the_steps_are_numbered_and_few() -> None:
    assert [int(number) for number, _, _ in STEPS] == list(range(1, len(STEPS) + 1))
    assert 20 < len(STEPS) <= MOST_STEPS


def test_the_page_has_the_layers_of_the_layout_test() -> None:
    diagram = re.search(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert diagram is not None
    lines = [line.split() for line in diagram[1].splitlines()]
    assert {name: {*rest} for name, *rest in lines} == {
        layer: names - {"__init__"} for layer, names in LAYERS.items()
    }


def test_the_page_says_what_each_subpackage_imports() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\|(.*)\|$", PAGE, re.MULTILINE)
    named = {name: {*re.findall(r"`(\w+)`", imports)} for name, imports in rows}
    assert named == {
        name: imports_of(name) for name in {file.parts[0] for file in FILES} - TOP_LEVEL
    }


def imports_of(folder: str) -> set[str]:
    """Return the other subpackages that the files of a subpackage import."""
    names = [name for file in FILES if file.parts[0] == folder for name in names_of(file)]
    used = {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")}
    return used - TOP_LEVEL - {folder, "__version__"}
