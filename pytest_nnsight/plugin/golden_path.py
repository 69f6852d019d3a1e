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
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_nnsight.plugin.keys import COLLECTED, SUITE_NODE

_TEXT_FILES = (".md", ".rst", ".txt")  # whose doctests are named like their file


class NodeLocation(NamedTuple):
    """The file of a test, relative to the root folder, and its node id within that file."""

    file: str
    name: str


_ALIKE = pytest.StashKey[dict[str | None, dict[tuple[str, str], list[str]]]]()


def path_of(item: pytest.Item, model_in_id: str | None) -> str:
    """Return the path of a test's golden; call it once every test is collected.

    ``model_in_id`` is the name of its model if the test runs with several, see `golden_path`.
    """
    config = item.config
    location = location_of(item.nodeid, item.path, config.rootpath)
    readable = _readable(_without_model(location.name, model_in_id))
    alike = _names_by_readable_name(config, model_in_id).get((location.file, readable), ())
    return golden_path(location, model_in_id, alike)


def _names_by_readable_name(
    config: pytest.Config, model_in_id: str | None
) -> dict[tuple[str, str], list[str]]:
    """Return the names of all tests by file and readable name; made once, they may be many."""
    by_model = config.stash.setdefault(_ALIKE, {})
    if model_in_id not in by_model:
        found = by_model[model_in_id] = {}
        for nodeid, path in config.stash[COLLECTED]:
            file, name = location_of(nodeid, path, config.rootpath)
            readable = _readable(_without_model(name, model_in_id))
            found.setdefault((file, readable), []).append(name)
    return by_model[model_in_id]


def location_of(nodeid: str, path: Path, root: Path) -> NodeLocation:
    """Return where a test is; outside the root folder a node id depends on pytest's arguments."""
    file, _, name = nodeid.partition("::")
    if file != SUITE_NODE and not path.is_relative_to(root):
        file = Path(os.path.relpath(path, root)).as_posix()
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
    key = readable, _class_of(name)
    others = [other for other in others if (_readable(other), _class_of(other)) == key]
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
