"""A package index in a folder, so that pip needs no network."""

from __future__ import annotations

from pathlib import Path

import pytest
from wheels import make_wheel

RELEASES = {
    "1.0": "FACTOR = 1.0",
    "1.1": "FACTOR = 1.0",
    "1.2": "FACTOR = 1.0",
    "1.3": "FACTOR = 1.001",
    "1.4": "FACTOR = 1.001",
    "1.5": "import nothing_of_that_name",
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the releases of ``drifty``, the only index of pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    for version, code in RELEASES.items():
        make_wheel(folder, version, code + "\n")
    make_wheel(folder, "1.2.1", "", requires="nothing-of-that-name")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder
