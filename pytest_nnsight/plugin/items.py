"""One test: its settings, its id and the command that runs it again."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.options import OPTIONS
from pytest_nnsight.plugin.keys import SUITE_NODE
from pytest_nnsight.settings import Settings


def settings_of(item: pytest.Item | pytest.Session, settings: Settings) -> Settings:
    """Return the settings of one test, its markers' arguments among them."""
    for marker in reversed(list(item.iter_markers("nnsight"))):
        if marker.args:
            raise UsageError("@pytest.mark.nnsight takes named arguments only, like timeout=60")
        settings = settings.for_marker(marker.kwargs)
    return settings


def test_id(root: Path, nodeid: str, code_file: str) -> str:
    """Return the id of a reported test by its file from the root folder, outside of it too.

    There pytest's node id depends on its arguments, and may lack the file. ``code_file`` is where
    the code of the test is, which may also be another file, such as that of a base class.
    """
    file, _, name = nodeid.partition("::")
    is_outside = file != SUITE_NODE and code_file.startswith("..") and not (root / file).is_file()
    return f"{code_file}::{name}" if is_outside else nodeid


def command_of(config: pytest.Config, test: str) -> str:
    """Return the command that runs one test again, on the same model loaded in the same way."""
    words = ["pytest"]
    for option in OPTIONS:
        given = config.getoption(option.key) if option.name in _THAT_LOAD else None
        for value in given if isinstance(given, list) else [given] if given is not None else ():
            told = "" if option.is_flag else f" {shlex.quote(str(value))}"
            words.append(f"{option.flag}{told}")
    if test.startswith(SUITE_NODE):
        name = test.rpartition("::")[2].partition("[")[0]
        words.append(f"--nnsight-suite -k {shlex.quote(name)}")
    elif test.startswith(".."):
        folder = config.invocation_params.dir
        root, path = (os.path.relpath(p, folder) for p in (config.rootpath, config.rootpath / test))
        words += ["--rootdir", shlex.quote(root), shlex.quote(path)]
    else:
        words.append(shlex.quote(test))
    return " ".join(words)


_THAT_LOAD = ("model", "device_map", "dtype", "attn", "trust_remote_code", "remote", "golden_dir")
