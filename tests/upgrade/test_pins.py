"""The pins of a project are read, without those of the packages that `upgrade` varies."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nnsight.errors import UsageError
from pytest_nnsight.upgrade.requirements import find_pins, read_pins

CONSTRAINTS = """
# ours
torch==2.13.0  # the CPU build
Transformers == 5.23.0
-r more.txt
numpy<3; python_version >= "3.11"
"""
UV = """
version = 1
[[package]]
name = "torch"
version = "2.13.0"
[[package]]
name = "mine"
version = "0.1"
source = { editable = "." }
[[package]]
name = "transformers"
version = "5.23.0"
"""


def test_constraints(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text(CONSTRAINTS)
    assert find_pins(tmp_path) == path
    assert read_pins(path, {"transformers"}) == [
        "torch==2.13.0",
        'numpy<3; python_version >= "3.11"',
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("uv.lock", UV),
        ("poetry.lock", UV),
        ("pylock.toml", UV.replace("[[package]]", "[[packages]]")),
    ],
)
def test_lock_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert find_pins(tmp_path) == tmp_path / name
    assert read_pins(tmp_path / name, {"transformers"}) == ["torch==2.13.0"]


def test_constraints_come_before_lock_files(tmp_path: Path) -> None:
    for name in ("uv.lock", "constraints.txt", "poetry.lock"):
        (tmp_path / name).write_text("")
    assert find_pins(tmp_path) == tmp_path / "constraints.txt"


def test_no_pins(tmp_path: Path) -> None:
    assert find_pins(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "text"), [("constraints.txt", "=="), ("uv.lock", "[["), ("x", None)]
)
def test_unreadable_file_is_a_usage_error(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=f"^cannot read the pins of {name}: "):
        read_pins(tmp_path / name, ())
