"""An environment lies over the running one, is made once, and made anew if it was not finished."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from wheels import make_slow_sdist, make_wheel

from pytest_nnsight.errors import UsageError
from pytest_nnsight.upgrade import environment
from pytest_nnsight.upgrade.environment import InstallError, make_environment
from pytest_nnsight.upgrade.releases import release_date, releases_between


def ask(python: Path, code: str) -> str:
    command = [str(python), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def made(cache: Path, *combination: str, pins: tuple[str, ...] = ()) -> tuple[Path, str]:
    said: list[str] = []
    return make_environment(combination, pins, cache, said.append), "".join(said)


def test_only_what_differs_is_installed(index: Path, tmp_path: Path) -> None:
    python, said = made(tmp_path / "cache", "drifty==1.3")
    assert said == "installing drifty==1.3 ... "
    assert ask(python, "import drifty; print(drifty.FACTOR)") == "1.001"
    below = "import pytest_nnsight, pytest, syrupy; print(pytest.__file__)"
    assert ask(python, below) == ask(Path(sys.executable), below)
    assert [*python.parents[1].rglob("pytest")] == []


def test_one_is_made_once_and_another_for_other_pins(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, _ = made(cache, "drifty==1.0")
    assert made(cache, "drifty==1.0") == (first, "")
    pinned, said = made(cache, "drifty==1.0", pins=("pytest<99",))
    assert pinned != first
    assert said
    other, _ = made(cache, "drifty", pins=("drifty<1.2",))
    assert ask(other, "from importlib.metadata import version as v; print(v('drifty'))") == "1.1"


def test_a_wish_for_the_newest_is_brought_up_to_date(index: Path, tmp_path: Path) -> None:
    python, _ = made(tmp_path / "cache", "drifty>=1.0")
    assert ask(python, "from importlib.metadata import version as v; print(v('drifty'))") == "1.5"
    make_wheel(index, "1.6", "FACTOR = 1.6\n")
    again, said = made(tmp_path / "cache", "drifty>=1.0")
    assert (again, said) == (python, "installing drifty>=1.0 ... ")
    assert ask(python, "import drifty; print(drifty.FACTOR)") == "1.6"


def test_one_that_was_not_finished_is_made_anew(index: Path, tmp_path: Path) -> None:
    python, _ = made(tmp_path, "drifty==1.0")
    (python.parents[1] / "pytest-nnsight-ready").unlink()
    next(python.parents[1].rglob("drifty.py")).write_text("half of")
    again, said = made(tmp_path, "drifty==1.0")
    assert said
    assert ask(again, "import drifty; print(drifty.FACTOR)") == "1.0"
    assert [*again.parents[2].iterdir()] == [again.parents[1]]


def test_one_that_was_not_brought_up_to_date_is_made_anew(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, it is neither what it was nor what it is to be."""
    python, _ = made(tmp_path, "drifty>=1.0")
    with monkeypatch.context() as patched:
        patched.setattr(environment, "_install", interrupt)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, "drifty>=1.0")
    again, _ = made(tmp_path, "drifty>=1.0")
    assert again != python
    assert not python.exists()


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_two_that_want_the_same_one_wait_for_each_other(index: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: made(tmp_path, "drifty==1.0"), range(2))
    assert first[0] == second[0]
    assert {first[1], second[1]} == {
        "installing drifty==1.0 ... ",
        "another process is making it, waiting ... ",
    }


@pytest.mark.parametrize(
    ("combination", "told"),
    [
        (("drifty==9.9",), "Could not find a version that satisfies the requirement drifty==9.9"),
        (("drifty==1.2.1",), "nothing-of-that-name"),
        (("drifty==1.0", "drifty==1.1"), "onflict"),
    ],
)
def test_what_cannot_be_installed_is_one_line(
    index: Path, tmp_path: Path, combination: tuple[str, ...], told: str
) -> None:
    with pytest.raises(InstallError, match=told) as caught:
        made(tmp_path / "cache", *combination)
    assert len(str(caught.value).splitlines()) == 1
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_cache_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(InstallError, match=r"^cannot make .*cache: File exists$"):
        made(tmp_path / "cache", "drifty==1.0")


def test_releases_and_their_dates(index: Path) -> None:
    assert releases_between("drifty", "1.0", "1.3") == ["1.0", "1.1", "1.2", "1.2.1", "1.3"]
    assert release_date("drifty", "1.3") == "2025-03-04"
    assert release_date("drifty", "9.9") == ""


def test_releases_are_in_the_order_of_their_versions(index: Path) -> None:
    make_wheel(index, "1.10", "")
    make_wheel(index, "1.11rc1", "")
    assert releases_between("drifty", "1.4", "1.10") == ["1.4", "1.5", "1.10"]


def test_a_date_that_stands_for_none_is_not_told(index: Path) -> None:
    """Builds that are to give the same bytes carry one of long ago."""
    make_wheel(index, "1.6", "", year=1980)
    assert release_date("drifty", "1.6") == ""


def test_the_date_of_a_source(index: Path) -> None:
    make_slow_sdist(index, "2.0")
    assert release_date("drifty", "2.0") == "2025-03-04"


@pytest.mark.parametrize(
    ("package", "first", "last", "told"),
    [
        ("nothing-of-it", "1", "2", "the index knows no nothing-of-it"),
        ("drifty", "1.0", "7.7", "there is no drifty 7.7; nearest: "),
        ("drifty", "one", "1.1", "there is no drifty one; nearest: "),
        ("drifty", "1.3", "1.0", "drifty 1.3 is not before 1.0"),
        ("drifty", "1.3", "1.3", "drifty 1.3 is not before 1.3"),
    ],
)
def test_releases_that_are_not_there(
    index: Path, package: str, first: str, last: str, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        releases_between(package, first, last)
