"""Fixtures of the crash matrix; ``--whole`` runs all combinations instead of some."""

from __future__ import annotations

import os
from pathlib import Path

import matrix
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="every cause in every phase, every way")


@pytest.fixture(scope="session", autouse=True)
def plain_environment() -> None:
    """Remove settings of this session from the environment of inner sessions."""
    for name in list(os.environ):
        if name.startswith("PYTEST_") and name != "PYTEST_XDIST_WORKER":
            del os.environ[name]
    os.environ.pop("CI", None)
    os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with goldens, prepared once."""
    folder = tmp_path_factory.mktemp("matrix")
    matrix.prepare(folder)
    return folder
