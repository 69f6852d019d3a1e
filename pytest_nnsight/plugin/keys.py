"""Stash keys and names that the modules of `plugin` share; it must not import any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_nnsight.settings import Settings

SETTINGS = pytest.StashKey[Settings]()
"""On the config: the settings of the session."""
GOLDENS = pytest.StashKey[Any]()
"""On an item: the `GoldenContext` of a test that uses ``nnsight_golden``."""
GOLDEN_ASSERTION = pytest.StashKey[Any]()
"""On the config: the class `GoldenAssertion`, once a test has used it."""
PASSED = pytest.StashKey[bool]()
"""On an item: set once the call phase has passed."""
WATCHDOG = pytest.StashKey[Any]()
"""On the config: the `Watchdog` of a process that runs tests."""
SPECS = pytest.StashKey[dict[int, Any]]()
"""On the config: the `ModelSpec` of the loaded model, by the model's `id`."""
SHARED = pytest.StashKey[dict[int, Any]]()
"""On the config: the `SharedModel` of each guarded model, by the model's `id`."""
COLLECTED = pytest.StashKey[list[tuple[str, Path]]]()
"""On the config: the node id and the path of every collected test, see `golden_path`."""
TERMINAL = pytest.StashKey[int]()
"""On the config: a file descriptor of the terminal, duplicated before pytest captures stderr."""
DETAIL_TEXTS = pytest.StashKey[list[str]]()
"""On an item: the details of its goldens, as JSON, until they are moved to a test report."""
FIXTURE = "nnsight_model"
"""The fixture of the model under test."""
NOTE = "nnsight_note"
"""The user property of a note, such as state that was restored and fails no test."""
RECORD = "nnsight_record"
"""The user property of a comparison's record, as JSON."""
DETAILS = "nnsight_details"
"""The attribute of a test report that holds the details of its goldens, as JSON."""
SUITE_NODE = "nnsight-suite"
"""The node id of the built-in suite; its tests are below it."""
