"""The trained model of this session, and a clean environment for inner sessions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def smollm2(request: pytest.FixtureRequest) -> Path:
    """The prepared folder, from ``--nnsight-model smollm2=FOLDER``."""
    models = request.config.getoption("nnsight_model") or []
    folders = [spec.removeprefix("smollm2=") for spec in models if spec.startswith("smollm2=")]
    if not folders:
        pytest.skip("needs --nnsight-model smollm2=FOLDER (make test-trained)")
    return Path(folders[0])


@pytest.fixture
def user(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty folder in which pytest runs without variables of CI and of this session."""
    for name in [name for name in os.environ if name.startswith("PYTEST_")] + ["CI"]:
        monkeypatch.delenv(name, raising=False)
    return pytester
