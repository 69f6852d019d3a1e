"""One test: its settings, its id in reports, and the command that runs it again."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.options import OPTIONS
from pytest_nnsight.plugin.keys import SETTINGS, SUITE_NODE
from pytest_nnsight.settings import Settings

# The options that decide which model a test uses, and where its golden is.
_RERUN = "golden_dir", "model", "device_map", "dtype", "attn", "trust_remote_code", "remote"


def settings_of(item: pytest.Item | pytest.Session) -> Settings:
    """Return the settings of one test: those of the session, changed by its markers."""
    settings = item.config.stash[SETTINGS]
    for marker in reversed(list(item.iter_markers("nnsight"))):
        if marker.args:
            raise UsageError("@pytest.mark.nnsight takes named arguments only, like timeout=60")
        settings = settings.for_marker(marker.kwargs)
    return settings


def test_id(root: Path, nodeid: str, code_file: str) -> str:
    """Return the id of a test in reports: its file relative to the root folder, and its name.

    For a file outside the root folder pytest's node id depends on pytest's arguments, so the id is
    built from ``code_file``. Otherwise the node id is right; ``code_file`` may then be the file of
    a base class.
    """
    file, _, name = nodeid.partition("::")
    is_outside = file != SUITE_NODE and code_file.startswith("..") and not (root / file).is_file()
    return f"{code_file}::{name}" if is_outside else nodeid


def command_of(config: pytest.Config, test: str) -> str:
    """Return the command that runs one test again, on the same model loaded in the same way."""
    words = ["pytest"]
    for option in OPTIONS:
        value = config.getoption(option.key) if option.name in _RERUN else None
        for one in value if isinstance(value, list) else [value] if value is not None else ():
            text = "" if option.is_flag else f" {shlex.quote(str(one))}"
            words.append(option.flag + text)
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
