"""Run <-> the text of a golden."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from builders import make_call, make_generation, make_run, make_summary, normal, summarize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_nnsight.errors import GoldenError
from pytest_nnsight.golden.document import FORMAT, KINDS, decode, encode
from pytest_nnsight.run import Call, Environment, Generated, Leaf, ModelRecord, Prompt, Run, Summary

NAME = "golden/gpt2/cpu-float32/test_it.json"
thorough = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
count = st.integers(0, 2**40)
# A golden keeps nine digits of a statistic.
number = st.floats(-1e38, 1e38).map(lambda value: float(f"{value:.7g}"))
plain = st.recursive(
    st.none() | st.booleans() | count | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
mapping = st.dictionaries(text, plain, max_size=3)
rows = st.lists(st.lists(count, max_size=4).map(tuple), max_size=3).map(tuple)


@st.composite
def summaries(draw: st.DrawFn) -> Summary:
    tokens = draw(st.integers(0, 4))
    return Summary(
        shape=(tokens, 3),
        dtype=draw(st.sampled_from(["float32", "bfloat16", "int64"])),
        **{name: draw(st.none() | number) for name in ("minimum", "maximum", "mean", "std", "rms")},
        nan=draw(count),
        inf=draw(count),
        norms=draw(st.binary(min_size=4 * tokens, max_size=4 * tokens)),
        sketch=draw(st.binary(min_size=244, max_size=244)) if tokens else b"",
        digest=draw(text),
    )


@st.composite
def call_lists(draw: st.DrawFn) -> tuple[Call, ...]:
    """Draw calls whose leaves share some of their summaries."""
    shared = draw(st.lists(summaries(), min_size=1, max_size=3))
    summary = st.sampled_from(shared) | summaries()
    calls = []
    for visit in range(draw(st.integers(0, 4))):
        places = draw(st.lists(text, unique=True, max_size=3))
        leaves = tuple(Leaf(f"out.{place}", draw(summary)) for place in places)
        inputs = draw(st.none() | text)
        calls.append(Call(draw(text), visit, draw(text), draw(text), leaves, inputs))
    return tuple(calls)


@st.composite
def generations(draw: st.DrawFn) -> Generated:
    ids = draw(rows)
    texts = tuple(draw(text) for _ in ids)
    return Generated(ids, texts, draw(st.lists(st.binary(max_size=8)).map(tuple)))


runs = st.builds(
    Run,
    kind=st.sampled_from(KINDS),
    model=st.builds(ModelRecord, text, text, mapping, st.none() | text, st.none() | text, count),
    environment=st.builds(
        Environment, st.dictionaries(text, text, max_size=3), text, text, text, count, text
    ),
    prompt=st.builds(Prompt, plain, rows, st.booleans(), mapping, st.none() | text),
    generated=st.none() | generations(),
    calls=call_lists(),
)


def rich_run() -> Run:
    """Return a run that uses every field of the format."""
    shared = make_summary()
    ids = summarize(torch.arange(7)[None])
    broken = torch.tensor([1.0, float("nan"), float("inf")])
    calls = (
        make_call("h.0.mlp", shared),
        make_call("h.0", leaves=(Leaf("in.0", ids), Leaf("out", shared)), inputs="{0=tensor}"),
        make_call("h.0", visit=1, output="(tensor, None)", leaves=(Leaf("out[0]", shared),)),
        make_call("head", leaves=(Leaf("out", summarize(broken)),)),
        make_call("cache", output="None", leaves=()),
    )
    prompt = Prompt("Hé", ((1, 2), (3,)), True, {"max_new_tokens": 2, "seed": 0}, "zero_mlp")
    return make_generation(5, 6, calls=calls, prompt=prompt)


@thorough
@given(runs)
def test_decoding_gives_back_what_was_encoded(run: Run) -> None:
    assert decode(encode(run), NAME) == run
    assert decode(encode(run).encode(), NAME) == run


@thorough
@given(runs)
def test_decoded_run_has_the_same_bytes(run: Run) -> None:
    assert encode(decode(encode(run), NAME)) == encode(run)


def test_real_summaries_survive_to_seven_digits() -> None:
    run = rich_run()
    back = decode(encode(run), NAME)
    assert encode(back) == encode(run)
    for call, other in zip(run.calls, back.calls, strict=True):
        for leaf, again in zip(call.leaves, other.leaves, strict=True):
            assert again.summary.norms == leaf.summary.norms
            assert again.summary.sketch == leaf.summary.sketch
            assert again.summary.mean == pytest.approx(leaf.summary.mean, rel=1e-6)


def test_shared_tensor_is_written_once_and_shared_again() -> None:
    run = rich_run()
    text = encode(run)
    assert text.count('"same":"h.0.mlp#0 out"') == 2
    assert text.count('"sketch"') == 2
    first, second, third = (call.leaves[-1].summary for call in decode(text, NAME).calls[:3])
    assert first is second is third


def test_equal_tensors_that_are_not_the_same_are_written_each() -> None:
    run = make_run(make_call("a", make_summary()), make_call("b", make_summary()))
    assert encode(run).count('"sketch"') == 2


def test_same_run_gives_the_same_bytes() -> None:
    assert encode(rich_run()) == encode(rich_run())


def test_document_is_in_the_order_of_the_design() -> None:
    document = json.loads(encode(rich_run()))
    top = ["format", "kind", "model", "environment", "input", "output", "calls"]
    assert list(document) == top
    assert document["format"] == FORMAT == 1


def test_there_is_one_call_per_line() -> None:
    run = rich_run()
    lines = encode(run).splitlines()
    calls = [line for line in lines if line.startswith('{"path":')]
    assert [json.loads(line.rstrip(","))["path"] for line in calls] == [c.path for c in run.calls]
    assert lines[-2 - len(calls) - 1] == '"calls": ['
    assert lines[-2:] == ["]", "}"]


def test_document_ends_with_one_newline() -> None:
    assert encode(rich_run()).endswith("]\n}\n")
    assert encode(make_run(calls=())).endswith("]\n}\n")


def test_statistics_are_as_short_as_they_can_be() -> None:
    summary = replace(make_summary(), mean=2.0, std=0.100000001490116, minimum=-0.0)
    line = encode(make_run(make_call(summary=summary)))
    assert '"min":0,' in line
    assert '"mean":2,"std":0.1,' in line


@pytest.mark.parametrize("tokens", [8, 41, 512])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_call_keeps_within_its_budget(tokens: int, dtype: torch.dtype) -> None:
    value = (123.456 * normal(1, tokens, 576)).to(dtype)
    leaves = (Leaf("out[0]", summarize(value)),)
    call = make_call(
        "model.layers.29.self_attn",
        module_class="LlamaSdpaAttention",
        output="(tensor, None)",
        leaves=leaves,
        visit=15,
    )
    line = next(x for x in encode(make_run(call)).splitlines() if x.startswith('{"path":'))
    assert len(line.encode()) <= 600 + 6 * tokens


def test_truncated_golden_is_an_error_that_names_the_file() -> None:
    whole = encode(rich_run()).encode()
    for end in range(0, len(whole) - 2, 37):
        with pytest.raises(GoldenError, match=f"^{NAME} is not whole JSON"):
            decode(whole[:end], NAME)


def test_golden_with_a_byte_that_is_no_text_is_an_error() -> None:
    whole = bytearray(encode(rich_run()).encode())
    for position in range(0, len(whole), 37):
        damaged = bytes(whole[:position]) + b"\xff" + bytes(whole[position + 1 :])
        with pytest.raises(GoldenError, match=f"^{NAME} is not whole JSON"):
            decode(damaged, NAME)


def test_merge_conflict_is_an_error_that_says_so() -> None:
    lines = encode(rich_run()).splitlines()
    lines.insert(8, "<<<<<<< HEAD")
    with pytest.raises(GoldenError, match=r"merge conflict.*--snapshot-update$"):
        decode("\n".join(lines), NAME)


def test_newer_format_says_to_upgrade() -> None:
    text = encode(rich_run()).replace('"format": 1', '"format": 2')
    with pytest.raises(GoldenError) as caught:
        decode(text, NAME)
    assert str(caught.value) == (
        f"{NAME} has format 2, this version reads up to 1; upgrade pytest-nnsight"
    )


@pytest.mark.parametrize("text", ["", "hello", "\x00", "{", "[" * 100_000, b"\xff\xfe", "'a'"])
def test_what_is_not_json_is_an_error(text: str | bytes) -> None:
    with pytest.raises(GoldenError, match=f"^{NAME} is not whole JSON"):
        decode(text, NAME)


@pytest.mark.parametrize("text", ["null", "1", "[]", "{}", '"text"', '{"format": "1"}', '{"a": 1}'])
def test_json_of_another_kind_is_no_golden(text: str) -> None:
    with pytest.raises(GoldenError, match=f"^{NAME} is no golden of pytest-nnsight"):
        decode(text, NAME)


def test_unknown_kind_is_damage() -> None:
    with pytest.raises(GoldenError, match=f"^{NAME} is damaged .kind 'movie' is unknown"):
        decode(encode(rich_run()).replace('"generate"', '"movie"'), NAME)


@pytest.mark.parametrize("size", [0, 4, 243, 245, 248])
def test_sketch_of_the_wrong_length_is_damage(size: int) -> None:
    run = make_run(make_call(summary=replace(make_summary(), sketch=b"x" * size)))
    with pytest.raises(GoldenError, match=rf"is damaged \(a sketch has {size} bytes, not 244"):
        decode(encode(run), NAME)


@pytest.mark.parametrize("size", [4 * (7 * 64 + 1), 4 * 10**5, 3])
def test_norms_that_do_not_fit_the_tensor_are_damage(size: int) -> None:
    run = make_run(make_call(summary=replace(make_summary(), norms=b"x" * size)))
    with pytest.raises(GoldenError, match=r"is damaged \(norms do not fit their tensor's shape"):
        decode(encode(run), NAME)


def test_negative_size_is_damage() -> None:
    run = make_run(make_call(summary=replace(make_summary(), shape=(-1, -7, 64))))
    with pytest.raises(GoldenError, match=r"is damaged \(a shape has a negative size"):
        decode(encode(run), NAME)


def test_reference_to_a_tensor_that_is_not_there_is_damage() -> None:
    text = encode(rich_run()).replace('"same":"h.0.mlp#0 out"', '"same":"h.7#0 out"')
    with pytest.raises(GoldenError, match=r"is damaged \(missing 'h.7#0 out'\)"):
        decode(text, NAME)


def nodes(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every node inside a JSON document."""
    if place:
        yield place
    items = value.items() if isinstance(value, dict) else []
    for key, item in [*items, *(enumerate(value) if isinstance(value, list) else [])]:
        yield from nodes(item, (*place, key))


VALID = encode(rich_run())
PLACES = tuple(nodes(json.loads(VALID)))


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(PLACES), plain | st.just(...))
def test_one_damaged_node_gives_a_run_or_an_error(place: tuple[Any, ...], junk: Any) -> None:
    """Replace one node by something else, or take it away (``...``)."""
    document = json.loads(VALID)
    *way, last = place
    parent = document
    for key in way:
        parent = parent[key]
    if junk is ...:
        del parent[last]
    else:
        parent[last] = junk
    try:
        assert isinstance(decode(json.dumps(document), NAME), Run)
    except GoldenError as error:
        assert str(error).startswith(NAME)  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize("key", ["kind", "model", "environment", "input", "output", "calls"])
def test_missing_part_is_named(key: str) -> None:
    document = json.loads(encode(rich_run()))
    del document[key]
    with pytest.raises(GoldenError, match=rf"^{NAME} is damaged \(missing '{key}'\)"):
        decode(json.dumps(document), NAME)


def test_drawn_places_reach_every_depth() -> None:
    depths = sorted({len(place) for place in PLACES})
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
    ],
)
def test_numbers_that_do_not_fit_are_a_golden_error(old: str, new: str) -> None:
    whole = encode(rich_run())
    assert old in whole
    with pytest.raises(GoldenError, match=r"golden/.*test_it\.json "):
        decode(whole.replace(old, new, 1), NAME)
