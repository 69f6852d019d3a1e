"""The examples of ``docs/features`` and of the README run without changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from project import TINY, Project

from pytest_nnsight import nnsight_api

pytestmark = [
    pytest.mark.usefixtures("warm"),
    pytest.mark.skipif(nnsight_api.version() < (0, 8), reason="pages are written for nnsight 0.8"),
]

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs" / "features").glob("*.md")), ROOT / "README.md"]


def blocks_of(page: Path) -> list[str]:
    """Return the Python blocks of a page that hold tests."""
    found = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [block for block in found if "def test_" in block]


def test_every_example_writes_its_golden_and_passes(project: Project) -> None:
    count = 0
    for page in PAGES:
        for number, block in enumerate(blocks_of(page)):
            name = f"test_{page.stem.lower().replace('-', '_')}_{number}.py"
            (project.path / name).write_text(block, encoding="utf-8")
            count += len(re.findall(r"def test_", block))
    assert count > 15
    written = project.run(*TINY, "-p", "no:warnings", "--snapshot-update")
    written.assert_outcomes(passed=count)
    project.run(*TINY, "-p", "no:warnings").assert_outcomes(passed=count)


@pytest.mark.parametrize("page", [page.name for page in PAGES if page.name != "README.md"])
def test_every_page_has_an_example_and_is_in_the_index(page: str) -> None:
    folder = ROOT / "docs" / "features"
    assert f"({page})" in (folder / "README.md").read_text(encoding="utf-8")
    assert "```" in (folder / page).read_text(encoding="utf-8")
