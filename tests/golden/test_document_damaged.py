"""A golden that is damaged, foreign or newer is a clear error that names the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from builders import make_call, make_rich_run, make_run, make_summary
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.errors import GoldenError
from pytest_nnsight.golden import encoding
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.report.failure import diagnose_finding, failure_lines
from pytest_nnsight.run import Run

NAME = "golden/gpt2/cpu-float32/test_it.json"
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


def test_truncated_golden_is_an_error_that_names_the_file() -> None:
    whole = encode(make_rich_run()).encode()
    for end in range(0, len(whole) - 2, 37):
        with pytest.raises(GoldenError, match=f"^{NAME} is not whole JSON"):
            decode(whole[:end], NAME)


def test_golden_with_an_invalid_byte_is_an_error() -> None:
    whole = bytearray(encode(make_rich_run()).encode())
    for position in range(0, len(whole), 37):
        damaged = bytes(whole[:position]) + b"\xff" + bytes(whole[position + 1 :])
        with pytest.raises(GoldenError, match=f"^{NAME} is not whole JSON"):
            decode(damaged, NAME)


def test_merge_conflict_is_an_error_that_says_so() -> None:
    lines = encode(make_rich_run()).splitlines()
    lines.insert(8, "<<<<<<< HEAD")
    with pytest.raises(GoldenError, match=r"merge conflict.*--snapshot-update$"):
        decode("\n".join(lines), NAME)


def test_newer_format_says_to_upgrade() -> None:
    text = encode(make_rich_run()).replace('"format": 1', '"format": 2')
    with pytest.raises(GoldenError) as caught:
        decode(text, NAME)
    assert str(caught.value) == (
        f"{NAME} has format 2, this version reads up to 1; upgrade pytest-nnsight"
    )


@pytest.mark.parametrize("text", ["", "hello", "\x00", "{", "[" * 100_000, b"\xff\xfe", "'a'"])
def test_what_is_not_json_is_an_error(text: str | bytes) -> None:
    with pytest.raises(GoldenError, match=f"^{NAME} is not whole JSON"):
        decode(text, NAME)


@pytest.mark.parametrize(
    "text", ["null", "1", "[]", "{}", '"text"', '{"format": "1"}', '{"format": 0}', '{"a": 1}']
)
def test_other_json_is_not_a_golden(text: str) -> None:
    with pytest.raises(GoldenError, match=f"^{NAME} is not a golden of pytest-nnsight"):
        decode(text, NAME)


def test_unknown_kind_is_damage() -> None:
    with pytest.raises(GoldenError, match=f"^{NAME} is damaged .kind 'movie' is unknown"):
        decode(encode(make_rich_run()).replace('"generate"', '"movie"'), NAME)


@pytest.mark.parametrize(("tokens", "size"), [(1, 184), (7, 1 + 3 * 7 * 9), (100, 301)])
def test_numbers_that_do_not_fit_their_tensor_are_damage(tokens: int, size: int) -> None:
    summary = make_summary(shape=(1, tokens, 64))
    assert (len(summary.norms), len(summary.sketch)) == (2 * tokens, size)
    for name, right in (("norms", 2 * tokens), ("sketch", size)):
        for wrong in (right - 1, right + 1, right + 4, 2 * right, 10**5):
            run = make_run(make_call(summary=summary._replace(**{name: b"x" * wrong})))
            message = rf"is damaged \(there are {wrong} bytes of numbers, not {right}\)"
            with pytest.raises(GoldenError, match=message):
                decode(encode(run), NAME)


@pytest.mark.parametrize("lacking", ["norms", "sketch"])
def test_norms_without_a_sketch_are_damage(lacking: str) -> None:
    document = json.loads(encode(make_run()))
    del document["calls"][0]["tensors"][0][lacking]
    with pytest.raises(GoldenError, match=r"is damaged \(a tensor has norms and a sketch, or"):
        decode(json.dumps(document), NAME)


@pytest.mark.parametrize("margins", [b"abc", b"abcd", b"abcd" * 3])
def test_margins_that_do_not_fit_their_tokens_are_damage(margins: bytes) -> None:
    """One number of 4 bytes for each of two tokens."""
    run = make_rich_run()
    assert run.generated is not None
    run = replace(run, generated=replace(run.generated, margins=(margins,)))
    with pytest.raises(GoldenError, match=r"^golden/.* is damaged"):
        decode(encode(run), NAME)


def test_negative_size_is_damage() -> None:
    run = make_run(make_call(summary=make_summary()._replace(shape=(-1, -7, 64))))
    with pytest.raises(GoldenError, match=r"is damaged \(a shape has a negative size"):
        decode(encode(run), NAME)


def test_reference_to_a_tensor_that_is_not_there_is_damage() -> None:
    text = encode(make_rich_run()).replace('"same":"h.0.mlp#0 out"', '"same":"h.7#0 out"')
    with pytest.raises(GoldenError, match=r"is damaged \(missing 'h.7#0 out'\)"):
        decode(text, NAME)


@pytest.mark.parametrize(
    "rows",
    [[[[0, 0, 101]]], [[[0, 0, 110], [0, 0, -50]]], [[[0, 0, 60], [0, 1, 60]]], [[[0, 0, 60]]] * 2],
    ids=["one", "negative", "two", "rows"],
)
def test_ranges_of_more_numbers_than_a_prompt_can_have_are_damage(
    rows: list[list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes must not ask for all memory."""
    monkeypatch.setattr(encoding, "LONGEST_ROW", 100)
    document = json.loads(encode(make_rich_run()))
    document["input"]["tensors"]["attention_mask"] = rows
    with pytest.raises(GoldenError, match=r"is damaged"):
        decode(json.dumps(document), NAME)


def nodes(value: Any, location: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the location of every node of a JSON document."""
    if location:
        yield location
    items = value.items() if isinstance(value, dict) else []
    for key, item in [*items, *(enumerate(value) if isinstance(value, list) else [])]:
        yield from nodes(item, (*location, key))


def report(golden: Run, received: Run) -> list[str]:
    """Compare and report, as a check would do with whatever was read."""
    comparison = compare(golden, received)
    if comparison.matches:
        return []
    finding = Finding(NAME, golden=golden, received=received, comparison=comparison)
    return failure_lines(finding, diagnose_finding(finding), "pytest", detailed=True)


VALID = encode(make_rich_run())
LOCATIONS = tuple(nodes(json.loads(VALID)))


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(LOCATIONS), plain | st.just(...))
def test_one_damaged_node_gives_a_run_to_compare_with_or_an_error(
    location: tuple[Any, ...], junk: Any
) -> None:
    """Replace one node by something else, or remove it (``...``)."""
    document = json.loads(VALID)
    *way, last = location
    parent = document
    for key in way:
        parent = parent[key]
    if junk is ...:
        del parent[last]
    else:
        parent[last] = junk
    try:
        run = decode(json.dumps(document), NAME)
        assert isinstance(run, Run)
        report(run, make_rich_run())
    except GoldenError as error:
        assert str(error).startswith(NAME)  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize("key", ["kind", "model", "environment", "input", "output", "calls"])
def test_missing_part_is_named(key: str) -> None:
    document = json.loads(encode(make_rich_run()))
    del document[key]
    with pytest.raises(GoldenError, match=rf"^{NAME} is damaged \(missing '{key}'\)"):
        decode(json.dumps(document), NAME)


def test_drawn_nodes_reach_every_depth() -> None:
    depths = sorted({len(location) for location in LOCATIONS})
    assert all(after - before == 1 for before, after in pairwise(depths))
    assert depths[0] == 1
    assert depths[-1] >= 6


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"parameters":3', '"parameters":Infinity'),
        ('"parameters":3', '"parameters":1e999'),
        ('"shape":[1,7,64]', '"shape":[1e999,7,64]'),
        ('"shape":[1,7,64]', '"shape":[1,5,64]'),
        ('"shape":[1,7,64]', '"shape":[-1,7,64]'),
        ('"token_ids":[[', '"token_ids":[[Infinity,'),
        ('"mean":', '"mean":NaN,"was":'),
        ('"format": 1', '"format": true'),
        ('"text":["xx"]', '"text":[]'),
        ('"noise":1e-06', '"noise":1.0'),
        ('"noise":1e-06', '"noise":-1e-06'),
        ('"noise":1e-06', '"noise":"much"'),
        ("[[1,0,2]]", "[[1,0,100000000]]"),
        ("[[1,0,2]]", "[[1,0]]"),
        ("[[1,0,2]]", "[[1,0,2.5]]"),
        ("[[1,0,2]]", "[[1.5,0,2]]"),
        ("[[1,0,2]]", "[[true,0,2]]"),
        ("[[1,0,2]]", "[1,0,2]"),
        ('"threads":2', '"threads":"many"'),
        ('"modules":{"Norm":{', '"modules":{"Norm":3,"x":{'),
        ('"calibration": [', '"calibration": 1, "was": ['),
    ],
)
def test_numbers_that_do_not_fit_are_a_golden_error(old: str, new: str) -> None:
    whole = encode(make_rich_run())
    assert old in whole
    with pytest.raises(GoldenError, match=r"golden/.*test_it\.json "):
        decode(whole.replace(old, new, 1), NAME)
