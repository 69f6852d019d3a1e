"""Turn a test's node id into the path of its golden, relative to the model's golden folder.

The path reads like the node id: ``tests/test_a.py::TestB::test_c[x]`` becomes
``tests/test_a/TestB.test_c[x]``. If another test could have the same path, a hash of the node id is
added. Whether it is added depends on the test files and on the parameters of one test function,
never on which tests a session selects.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_nnsight.plugin.keys import SUITE_NODE

_TEXT_FILES = (".md", ".rst", ".txt")  # a doctest in one of these has the name of its file
_COLLECTED = "nnsight-collected"


class NodeLocation(NamedTuple):
    """The file of a test, relative to the root folder, and its node id within that file."""

    file: str
    name: str


class CollectedTests:
    """The plugin object that stores every collected test, also those that are deselected later."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, dict[str, None]] = {}
        self._readable: dict[tuple[str, str | None], dict[str, list[str]]] = {}

    @pytest.hookimpl(wrapper=True, trylast=True)  # before --lf removes tests
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Iterator[None]:
        """Store the tests of one file or class."""
        report: pytest.CollectReport = yield  # type: ignore[assignment]
        self._readable.clear()
        for node in report.result or ():
            if isinstance(node, pytest.Item):
                location = location_of(node, self._root)
                self._names.setdefault(location.file, {})[location.name] = None
        return report  # type: ignore[return-value]

    def golden_path(self, item: pytest.Item, model_in_id: str | None) -> str:
        """Return the path of a test's golden, see the function `golden_path`."""
        location = location_of(item, self._root)
        key = (location.file, model_in_id)
        if key not in self._readable:  # once per file, since a file may have many tests
            names = self._readable[key] = {}
            for name in self._names.get(location.file, ()):
                readable = _readable(_without_model(name, model_in_id))
                names.setdefault(readable, []).append(name)
        readable = _readable(_without_model(location.name, model_in_id))
        return golden_path(location, model_in_id, self._readable[key].get(readable, ()))


def store_collected_tests(config: pytest.Config) -> None:
    """Register `CollectedTests`: call it before collection."""
    config.pluginmanager.register(CollectedTests(config.rootpath), _COLLECTED)


def collected_tests(config: pytest.Config) -> CollectedTests:
    """Return the tests that this session has collected."""
    found = config.pluginmanager.get_plugin(_COLLECTED)
    assert isinstance(found, CollectedTests)
    return found


def location_of(item: pytest.Item, root: Path) -> NodeLocation:
    """Return the location of a test.

    Unlike the node id, it does not depend on pytest's arguments if the test is outside the root
    folder.
    """
    file, _, name = item.nodeid.partition("::")
    if file != SUITE_NODE and not item.path.is_relative_to(root):
        file = Path(os.path.relpath(item.path, root)).as_posix()
    return NodeLocation(file, name)


def golden_path(
    location: NodeLocation, model_in_id: str | None = None, siblings: Iterable[str] = ()
) -> str:
    """Return a test's path in its golden folder: ``tests/test_residual/test_stream``.

    With several models the name of the model is part of the test's id. ``model_in_id`` is that
    name; it is removed once, so that the path is the same as with one model. ``siblings`` are the
    names of the tests in the same file. Siblings of other classes are ignored, because a session
    that selects one test does not collect them.
    """
    name = _without_model(location.name, model_in_id)
    readable = _readable(name)
    others = [_without_model(test, model_in_id) for test in siblings if test != location.name]
    others = [
        other
        for other in others
        if _readable(other) == readable and _class_of(other) == _class_of(name)
    ]
    is_first = _is_unchanged(name) and not any(map(_is_unchanged, others))
    if name in others:
        readable = f"{readable}-{_digest(location.name)}"
    elif not _has_clear_dots(location) or (others and not is_first):
        readable = f"{readable}-{_digest(name)}"
    return f"{_folder(location)}/{readable}"


def is_hashed(folder: str) -> bool:
    """Return whether a golden folder may belong to a test file outside the root folder."""
    return bool(re.fullmatch(r".+-[0-9a-f]{8}", folder))


def _folder(location: NodeLocation) -> str:
    """Return the folder of a test file's goldens: the path of the file without its suffix."""
    if location.file == SUITE_NODE:
        return "suite"
    path = Path(location.file)
    folder = path.with_suffix("") if path.name else path
    is_text = path.suffix in _TEXT_FILES and location.name == path.name
    is_mirrored = (
        f"{folder.as_posix()}{path.suffix if is_text else '.py'}" == location.file
        and not path.is_absolute()
        and ".." not in path.parts
        and not any(part.endswith(".json") for part in folder.parts)  # could be a golden
        and folder != Path("suite")
    )
    return folder.as_posix() if is_mirrored else f"{folder.name}-{_digest(location.file)}"


def _without_model(name: str, model: str | None) -> str:
    test, bracket, parameters = name.partition("[")
    if not bracket or model is None:
        return name
    edges = rf"(?:^|-){re.escape(model)}(?=-|\]$)"
    return f"{test}[{re.sub(edges, '', parameters, count=1).removeprefix('-')}"


def _readable(name: str) -> str:
    """Return a file name: dots for ``::``, no slashes and no empty brackets."""
    return name.removesuffix("[]").replace("::", ".").replace("/", "_")


def _class_of(name: str) -> str:
    return name.partition("[")[0].rpartition("::")[0]


def _has_clear_dots(location: NodeLocation) -> bool:
    """Return whether the dots of a readable name can be read in one way only.

    Only the name of a doctest contains dots, and it begins with the package or module of its file.
    """
    classes = location.name.partition("[")[0].split("::")
    first = classes[0].partition(".")[0]
    path = Path(location.file)
    is_of_file = first in (*path.parts[:-1], path.stem)
    if len(classes) > 1:
        return not is_of_file and not any("." in part or not part for part in classes)
    is_text = location.name == path.name
    looks_like_text = location.name.endswith(_TEXT_FILES)
    return bool(first) and ("." not in classes[0] or (is_of_file and looks_like_text is is_text))


def _is_unchanged(name: str) -> bool:
    """Return whether the readable name of a test shows all parameters unchanged."""
    parameters = name.partition("[")[2]
    return "/" not in name and "::" not in parameters and parameters != "]"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
