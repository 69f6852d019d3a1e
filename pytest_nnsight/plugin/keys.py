"""What the modules of the plugin keep on pytest's objects: stash keys, and names that they share.

In: nothing. Out: keys. Must not import a sibling.
"""

from __future__ import annotations

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
"""On an item: there once its call has passed."""
WATCHDOG = pytest.StashKey[Any]()
"""On the config: the `Watchdog` of a process that runs tests."""
SPECS = pytest.StashKey[dict[int, Any]]()
"""On the config: the spec of each loaded model, by its `id`."""
SHARED = pytest.StashKey[dict[int, Any]]()
"""On the config: the `SharedModel` of each guarded model, by its `id`."""
CHANGING = pytest.StashKey[Any]()
"""On the config: the models whose modules change their outputs in place, once that was seen."""
TERMINAL = pytest.StashKey[int]()
"""On the config: the file descriptor of the terminal, taken before pytest captures."""
FIXTURE = "nnsight_model"
NOTE = "nnsight_note"
"""The user property of a note: restored state that fails no test."""
RECORD = "nnsight_record"
"""The user property of a golden's record, as JSON."""
DETAILS = "nnsight_details"
"""The attribute of a test report that holds the details of its goldens, as JSON."""
SUITE_NODE = "nnsight-suite"
"""The node id that the tests of the built-in suite are below."""
