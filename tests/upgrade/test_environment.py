"""An environment extends the running one, is made once, and made again if it is unfinished."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from wheels import make_slow_sdist, make_wheel

from pytest_nnsight.errors import UsageError
from pytest_nnsight.upgrade import environment
from pytest_nnsight.upgrade.bisect import release_date, releases_between
from pytest_nnsight.upgrade.environment import InstallError, make_environment


def ask(python: Path, code: str) -> str:
    command = [str(python), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def make(cache: Path, *combination: str, pins: tuple[str, ...] = ()) -> tuple[Path, str]:
    progress: list[str] = []
    return make_environment(combination, pins, cache, progress.append), "".join(progress)


def test_only_what_differs_is_installed(index: Path, tmp_path: Path) -> None:
    python, progress = make(tmp_path / "cache", "drifty==1.3")
    assert progress == "installing drifty==1.3 ... "
    assert ask(python, "import drifty; print(drifty.FACTOR)") == "1.001"
    below = "import pytest_nnsight, pytest, syrupy; print(pytest.__file__)"
    assert ask(python, below) == ask(Path(sys.executable), below)
    assert [*python.parents[1].rglob("pytest")] == []


def test_environment_is_used_again_unless_the_pins_change(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, _ = make(cache, "drifty==1.0")
    assert make(cache, "drifty==1.0") == (first, "")
    pinned, progress = make(cache, "drifty==1.0", pins=("pytest<99",))
    assert pinned != first
    assert progress
    other, _ = make(cache, "drifty", pins=("drifty<1.2",))
    assert ask(other, "from importlib.metadata import version as v; print(v('drifty'))") == "1.1"


def test_open_requirement_is_updated(index: Path, tmp_path: Path) -> None:
    python, _ = make(tmp_path / "cache", "drifty>=1.0")
    assert ask(python, "from importlib.metadata import version as v; print(v('drifty'))") == "1.5"
    make_wheel(index, "1.6", "FACTOR = 1.6\n")
    again, progress = make(tmp_path / "cache", "drifty>=1.0")
    assert (again, progress) == (python, "installing drifty>=1.0 ... ")
    assert ask(python, "import drifty; print(drifty.FACTOR)") == "1.6"


def test_unfinished_environment_is_made_again(index: Path, tmp_path: Path) -> None:
    python, _ = make(tmp_path, "drifty==1.0")
    (python.parents[1] / "pytest-nnsight-ready").unlink()
    next(python.parents[1].rglob("drifty.py")).write_text("half of")
    again, progress = make(tmp_path, "drifty==1.0")
    assert progress
    assert ask(again, "import drifty; print(drifty.FACTOR)") == "1.0"
    assert [*again.parents[2].iterdir()] == [again.parents[1]]


def test_environment_killed_during_an_update_is_made_again(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold files of both versions."""
    python, _ = make(tmp_path, "drifty>=1.0")
    with monkeypatch.context() as patched:
        patched.setattr(environment, "_install", interrupt)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, "drifty>=1.0")
    again, _ = make(tmp_path, "drifty>=1.0")
    assert again != python
    assert not python.exists()


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_two_processes_that_need_the_same_environment_wait_for_each_other(
    index: Path, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: make(tmp_path, "drifty==1.0"), range(2))
    assert first[0] == second[0]
    assert {first[1], second[1]} == {
        "installing drifty==1.0 ... ",
        "waiting for another process that makes it ... ",
    }


@pytest.mark.parametrize(
    ("combination", "message"),
    [
        (("drifty==9.9",), "Could not find a version that satisfies the requirement drifty==9.9"),
        (("drifty==1.2.1",), "nothing-of-that-name"),
        (("drifty==1.0", "drifty==1.1"), "onflict"),
    ],
)
def test_failed_installation_is_one_line(
    index: Path, tmp_path: Path, combination: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InstallError, match=message) as caught:
        make(tmp_path / "cache", *combination)
    assert len(str(caught.value).splitlines()) == 1
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_cache_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(InstallError, match=r"^cannot create .*cache: File exists$"):
        make(tmp_path / "cache", "drifty==1.0")


def test_releases_and_their_dates(index: Path) -> None:
    assert releases_between("drifty", "1.0", "1.3") == ["1.0", "1.1", "1.2", "1.2.1", "1.3"]
    assert release_date("drifty", "1.3") == "2025-03-04"
    assert release_date("drifty", "9.9") == ""


def test_releases_are_sorted_by_version_without_pre_releases(index: Path) -> None:
    make_wheel(index, "1.10", "")
    make_wheel(index, "1.11rc1", "")
    assert releases_between("drifty", "1.4", "1.10") == ["1.4", "1.5", "1.10"]


def test_fixed_date_of_a_reproducible_build_is_not_shown(index: Path) -> None:
    """Such builds set an early date, so that they give the same bytes every time."""
    make_wheel(index, "1.6", "", year=1980)
    assert release_date("drifty", "1.6") == ""


def test_release_date_of_a_source_archive(index: Path) -> None:
    make_slow_sdist(index, "2.0")
    assert release_date("drifty", "2.0") == "2025-03-04"


@pytest.mark.parametrize(
    ("package", "first", "last", "message"),
    [
        ("nothing-of-it", "1", "2", "pip finds no package nothing-of-it"),
        ("drifty", "1.0", "7.7", "there is no drifty 7.7; nearest: "),
        ("drifty", "one", "1.1", "there is no drifty one; nearest: "),
        ("drifty", "1.3", "1.0", "drifty 1.3 is not before 1.0"),
        ("drifty", "1.3", "1.3", "drifty 1.3 is not before 1.3"),
    ],
)
def test_missing_release_or_wrong_order_is_a_usage_error(
    index: Path, package: str, first: str, last: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        releases_between(package, first, last)
