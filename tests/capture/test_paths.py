"""Globs over module paths."""

from __future__ import annotations

import pytest

from pytest_nnsight.capture.request import select
from pytest_nnsight.errors import UsageError

BLOCK = ("", ".ln_1", ".attn", ".attn.c_attn", ".mlp", ".mlp.c_fc")
PATHS = (
    "transformer.wte",
    *(f"transformer.h.{i}{part}" for i in range(12) for part in BLOCK),
    "transformer.ln_f",
    "transformer",
    "lm_head",
    "<model>",
)
BLOCKS = [f"transformer.h.{i}" for i in range(12)]


def test_star_stays_in_one_part() -> None:
    assert select("transformer.h.*", PATHS) == BLOCKS
    assert select("transformer.*", PATHS) == ["transformer.wte", "transformer.ln_f"]
    assert select("*.h.*.mlp", PATHS) == [f"{block}.mlp" for block in BLOCKS]


def test_star_is_any_text_inside_its_part() -> None:
    assert select("transformer.h.1*", PATHS) == [BLOCKS[1], BLOCKS[10], BLOCKS[11]]
    assert select("*.*.0.*n*", PATHS) == [f"{BLOCKS[0]}.ln_1", f"{BLOCKS[0]}.attn"]


def test_two_stars_span_any_number_of_parts() -> None:
    assert select("**.mlp", PATHS) == [f"{block}.mlp" for block in BLOCKS]
    assert select("**.c_fc", PATHS) == [f"{block}.mlp.c_fc" for block in BLOCKS]
    assert select("transformer.**.c_fc", PATHS) == [f"{block}.mlp.c_fc" for block in BLOCKS]


def test_two_stars_alone_are_everything() -> None:
    assert select("**", PATHS) == list(PATHS)


def test_two_stars_at_the_end_are_everything_below() -> None:
    below = [path for path in PATHS if path.startswith("transformer.h.")]
    assert select("transformer.h.**", PATHS) == below
    assert select("transformer.h.3.**", PATHS) == [f"transformer.h.3{part}" for part in BLOCK]


def test_two_stars_are_none_part_too() -> None:
    paths = ["a", "a.b", "a.x.b", "a.x.y.b", "a.xb", "ab", "x.a.b", "a.b.x", "b"]
    assert select("a.**.b", paths) == ["a.b", "a.x.b", "a.x.y.b"]
    assert select("**.b", paths) == ["a.b", "a.x.b", "a.x.y.b", "x.a.b", "b"]
    assert select("a.**", paths) == ["a", "a.b", "a.x.b", "a.x.y.b", "a.xb", "a.b.x"]
    assert select("**.a.**", paths) == ["a", "a.b", "a.x.b", "a.x.y.b", "a.xb", "x.a.b", "a.b.x"]


def test_a_dot_is_a_dot() -> None:
    assert select("a.b", ["a.b", "axb"]) == ["a.b"]
    assert select("**.b", ["xb", "x.b"]) == ["x.b"]


def test_classes_and_question_marks() -> None:
    assert select("transformer.h.[0-3]", PATHS) == BLOCKS[:4]
    assert select("transformer.h.[!0-3]", PATHS) == BLOCKS[4:10]
    assert select("transformer.h.1?", PATHS) == BLOCKS[10:]


def test_plain_path_is_itself_alone() -> None:
    assert select("transformer.h.1", PATHS) == ["transformer.h.1"]


def test_outermost_module_has_a_name() -> None:
    assert select("<model>", PATHS) == ["<model>"]


def test_several_globs_keep_the_order_of_execution_and_name_nothing_twice() -> None:
    globs = ["lm_head", "transformer.h.1", "transformer.wte", "transformer.h.[01]"]
    expected = ["transformer.wte", "transformer.h.0", "transformer.h.1", "lm_head"]
    assert select(globs, PATHS) == expected
    assert select(iter(reversed(globs)), PATHS) == expected


@pytest.mark.parametrize(
    ("glob", "nearest"),
    [
        ("transformer.h.12", "transformer.h.1"),
        ("transformers.h.*", "transformer.h.0"),
        ("**.lm_heads", "lm_head"),
        ("transformer.h.*.attention", "transformer.h.0.attn"),
        ("transformer.h", "transformer.h.9"),
    ],
)
def test_glob_without_match_names_the_nearest_paths(glob: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        select(["**", glob], PATHS, "keep")
    message = str(caught.value)
    assert message.startswith(f"keep={glob!r} matches no module; nearest: ")
    assert nearest in message.partition("nearest: ")[2].split(", ")


def test_no_glob_at_all_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"^modules=\[\] selects no module; leave it out"):
        select([], PATHS)


def test_what_is_no_text_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"^modules= takes globs over module paths, got 3$"):
        select([3], PATHS)  # type: ignore[list-item]


def test_doubled_stars_and_single_characters() -> None:
    paths = ["a", "a.b", "a.x.b", "axb"]
    assert select("**.**", paths) == paths
    assert select("a.**.**.b", paths) == ["a.b", "a.x.b"]
    assert select("a?b", paths) == ["axb"]
    assert select("a[!y]b", paths) == ["axb"]
