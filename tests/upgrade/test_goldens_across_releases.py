"""Each supported release reads the goldens of each other one, and matches them.

Environments are made as `upgrade` makes them, from the index that pip is configured for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_nnsight.upgrade.environment import make_environment

pytestmark = pytest.mark.long
OLDEST = ("transformers==4.57.6", "nnsight==0.5.15")
MIDDLE = ("transformers==5.2.0", "nnsight==0.7.0")
NEWEST: tuple[str, ...] = ()  # the running environment
SUITE = ("--nnsight-model=tiny:llama", "--nnsight-suite", "-k", "not padded")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("environments")


def run(cache: Path, folder: Path, releases: tuple[str, ...], *arguments: str) -> str:
    python = make_environment(releases, [], cache, print) if releases else sys.executable
    inherited = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("PYTEST_")}
    done = subprocess.run(
        [str(python), "-m", "pytest", *SUITE, *arguments],
        cwd=folder,
        env=inherited | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("writer", [OLDEST, MIDDLE, NEWEST], ids=["oldest", "middle", "newest"])
def test_goldens_of_one_release_match_under_all_others(
    cache: Path, tmp_path: Path, writer: tuple[str, ...]
) -> None:
    """Two prompts and a generation of a Llama, whose internals no release changed."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    run(cache, tmp_path, writer, "--snapshot-update")
    written = {path: path.read_bytes() for path in tmp_path.glob("golden/**/*.json")}
    assert len(written) == 4
    for reader in (OLDEST, MIDDLE, NEWEST):
        assert "3 goldens: 3 the same bit by bit" in run(cache, tmp_path, reader)
    assert {path: path.read_bytes() for path in written} == written
