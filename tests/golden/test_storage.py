"""Goldens are written whole or not at all, and every test has its own file name."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.errors import GoldenError
from pytest_nnsight.golden.storage import (
    WEIGHTS_FILE,
    file_name,
    read_text,
    read_weights,
    write_atomically,
    write_weights,
)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
quick = settings(deadline=None, max_examples=50)


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_writing_makes_folders_and_the_whole_text(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "golden.json"
    write_atomically(path, "naïve\nlines\n")
    assert path.read_bytes() == "naïve\nlines\n".encode()
    assert [entry.name for entry in path.parent.iterdir()] == ["golden.json"]


def test_writing_replaces_the_whole_file_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    write_atomically(path, "old " * 1000)
    with path.open() as reader:
        write_atomically(path, "new")
        assert reader.read() == "old " * 1000
    assert path.read_text() == "new"


def test_golden_can_be_read_by_everybody(tmp_path: Path) -> None:
    write_atomically(tmp_path / "golden.json", "text")
    assert stat.S_IMODE((tmp_path / "golden.json").stat().st_mode) == 0o644


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_failed_write_leaves_the_old_golden_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "golden.json"
    path.write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr(os, step, no_space)
        with pytest.raises(GoldenError) as caught:
            write_atomically(path, "new")
    assert str(caught.value) == (
        f"cannot write golden {path}: No space left on device; "
        "make its folder writable, nothing was changed"
    )
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["golden.json"]


def test_interrupted_write_leaves_the_old_golden_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "golden.json"
    path.write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["golden.json"]


def test_file_where_a_folder_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "golden").write_text("a file")
    with pytest.raises(GoldenError, match=r"^cannot write golden .*golden/x\.json: "):
        write_atomically(tmp_path / "golden" / "x.json", "text")
    assert (tmp_path / "golden").read_text() == "a file"


def test_home_folder_is_not_in_the_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "golden").write_text("a file")
    with pytest.raises(GoldenError, match=r"^cannot write golden ~/golden/x\.json: "):
        write_atomically(tmp_path / "golden" / "x.json", "text")


@pytest.mark.parametrize(
    "name", ["test_it", "test_it[gpt2-1.5,x]", "test_it.1", "test_it[a=b]", "A+B"]
)
def test_a_plain_name_is_not_changed(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a b", "a:b", "..", ".", "", "a\x00b", "x" * 181])
def test_other_names_are_cleaned_and_get_a_hash(name: str) -> None:
    clean = file_name(name)
    assert clean[-9] == "-"
    assert clean not in (name, "", ".", "..")


@quick
@given(st.lists(names, unique=True, min_size=2, max_size=5))
def test_distinct_names_stay_distinct(several: list[str]) -> None:
    assert len({file_name(name) for name in several}) == len(several)


@pytest.mark.parametrize(
    "pair", [("a/b", "a b"), ("a/b", "a_b"), ("x" * 200, "x" * 201), (".", ".."), ("", "_")]
)
def test_names_that_are_equal_when_cleaned_stay_distinct(pair: tuple[str, str]) -> None:
    assert file_name(pair[0]) != file_name(pair[1])


@quick
@given(names)
def test_file_name_is_one_part_of_a_path(name: str) -> None:
    clean = file_name(name)
    assert Path(clean).name == clean
    assert clean.strip(".")
    assert not set(clean) & set('/\\:*?"<>|\n\0 ')
    assert len(clean) <= 180


@quick
@given(st.text(st.characters(max_codepoint=127), max_size=400))
def test_file_of_an_ascii_name_can_be_made(name: str) -> None:
    assert len(f"{file_name(name)}.json".encode()) <= 255


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert read_text(tmp_path / "golden.json") is None


def test_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GoldenError, match=r"golden\.json is not text; restore it, or rewrite"):
        read_text(path)


def test_a_folder_named_like_a_golden_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "golden.json").mkdir()
    with pytest.raises(GoldenError, match=r"^cannot read golden .*golden\.json: "):
        read_text(tmp_path / "golden.json")


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    parameters = {"h.0.w": "aa", 'odd "name"': "bb"}
    write_weights(tmp_path, parameters)
    assert read_weights(tmp_path) == parameters
    assert (tmp_path / WEIGHTS_FILE).read_text().startswith('{\n"format": 1,\n')


def test_equal_weights_are_not_written_again(tmp_path: Path) -> None:
    write_weights(tmp_path, {"w": "aa"})
    before = (tmp_path / WEIGHTS_FILE).stat().st_ino
    write_weights(tmp_path, {"w": "aa"})
    assert (tmp_path / WEIGHTS_FILE).stat().st_ino == before
    write_weights(tmp_path, {"w": "bb"})
    assert read_weights(tmp_path) == {"w": "bb"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "1", "{}", '{"parameters": null}', '{"parameters": ["w"]}']
)
def test_damaged_weights_are_unknown(tmp_path: Path, text: str) -> None:
    (tmp_path / WEIGHTS_FILE).write_text(text)
    assert read_weights(tmp_path) is None


def test_missing_weights_are_unknown(tmp_path: Path) -> None:
    assert read_weights(tmp_path) is None


@pytest.mark.parametrize("name", ["é" * 170, "漢" * 180, "a\udc80b", "..", ".", ""])
def test_any_name_can_be_written_as_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{file_name(name)}.json"
    write_atomically(path, name)
    assert path.parent == tmp_path
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b"{}", b"[]", b"1"])
def test_damaged_fingerprints_are_unknown_and_can_be_rewritten(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "weights.json").write_bytes(content)
    assert read_weights(tmp_path) is None
    write_weights(tmp_path, {"w": "0"})
    assert read_weights(tmp_path) == {"w": "0"}
