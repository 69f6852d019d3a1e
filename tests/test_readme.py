"""The README's table of options is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_nnsight.options import OPTIONS, Option

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_the_readme_has_a_row_for_each_option(option: Option) -> None:
    rows = re.findall(rf"^\| `{option.flag}\b[^|]*\|([^|]*)\|([^|]*)\|", README, re.MULTILINE)
    marker = f"`{option.name}`" if option.in_marker else ""
    assert [(key.strip(), name.strip()) for key, name in rows] == [(f"`{option.key}`", marker)]
