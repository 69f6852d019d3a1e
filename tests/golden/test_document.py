"""A run <-> the text of a golden."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace

import pytest
import torch
from builders import make_call, make_rich_run, make_run, make_summary, normal, summarize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.golden.document import FORMAT, KINDS, decode, encode
from pytest_nnsight.run import (
    Call,
    Environment,
    Generated,
    Leaf,
    ModelRecord,
    Prompt,
    Run,
    Summary,
    numbers_per_token,
)
from pytest_nnsight.summary.packing import sketch_size

NAME = "golden/gpt2/cpu-float32/test_it.json"
thorough = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
count = st.integers(0, 2**40)
# A golden stores seven digits of a statistic.
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
    """Draw the summary of a tensor of 0 to 4 or of 61 tokens; integers have no norms."""
    tokens = draw(st.integers(0, 4) | st.just(61))
    norms, sketch = 2 * tokens, sketch_size(tokens * numbers_per_token(tokens))
    is_whole = not tokens or draw(st.booleans())
    return Summary(
        shape=(tokens, 3),
        dtype=draw(st.sampled_from(["float32", "bfloat16", "int64"])),
        **{name: draw(st.none() | number) for name in ("minimum", "maximum", "mean", "std")},
        nan=draw(count),
        inf=draw(count),
        norms=b"" if is_whole else draw(st.binary(min_size=norms, max_size=norms)),
        sketch=b"" if is_whole else draw(st.binary(min_size=sketch, max_size=sketch)),
        digest=draw(text),
        noise=draw(st.sampled_from([0.0, 1e-7, 0.012, 0.99])),
        rows=draw(
            st.sampled_from([0, 4 * tokens, 12 * tokens]).flatmap(
                lambda size: st.binary(min_size=size, max_size=size)
            )
        ),
    )


@st.composite
def call_lists(draw: st.DrawFn) -> tuple[Call, ...]:
    """Draw calls whose leaves share some of their summaries."""
    shared = draw(st.lists(summaries(), min_size=1, max_size=3))
    summary = st.sampled_from(shared) | summaries()
    calls = []
    for visit in range(draw(st.integers(0, 4))):
        locations = draw(st.lists(text, unique=True, max_size=3))
        leaves = tuple(Leaf(f"out.{location}", draw(summary)) for location in locations)
        inputs = draw(st.none() | text)
        calls.append(Call(draw(text), visit, draw(text), draw(text), leaves, inputs))
    return tuple(calls)


@st.composite
def generations(draw: st.DrawFn) -> Generated:
    ids = draw(rows)
    margins = tuple(draw(st.binary(min_size=4 * len(r), max_size=4 * len(r))) for r in ids)
    pieces = tuple(tuple(draw(text) for _ in row) for row in ids)
    known = draw(st.booleans())
    return Generated(
        ids, tuple(draw(text) for _ in ids), margins if known else (), pieces if known else ()
    )


prompts = st.builds(
    Prompt,
    text=plain,
    token_ids=rows,
    pieces=st.lists(st.lists(text, max_size=3).map(tuple), max_size=3).map(tuple),
    tensors=st.dictionaries(text, rows, max_size=3),
    digests=st.dictionaries(text, text, max_size=3),
    is_batch=st.booleans(),
    generation=mapping,
    intervention=st.none() | text,
    intervention_code=text,
)
models = st.builds(
    ModelRecord,
    spec=text,
    model_class=text,
    config=mapping,
    revision=st.none() | text,
    weights=st.none() | text,
    parameters=count,
    modules=st.dictionaries(text, st.dictionaries(text, count, max_size=2), max_size=3),
    generation=mapping,
)
environments = st.builds(
    Environment,
    versions=st.dictionaries(text, text, max_size=3),
    device=text,
    dtype=text,
    attention=text,
    threads=count,
    cpu=text,
    kernels=text,
)
runs = st.builds(
    Run,
    kind=st.sampled_from(KINDS),
    model=models,
    environment=environments,
    prompt=prompts,
    generated=st.none() | generations(),
    calls=call_lists(),
    calibration=st.lists(text, max_size=3).map(tuple),
)


@thorough
@given(runs)
def test_decoding_gives_back_what_was_encoded(run: Run) -> None:
    assert decode(encode(run), NAME) == run
    assert decode(encode(run).encode(), NAME) == run


@thorough
@given(runs)
def test_decoded_run_has_the_same_bytes(run: Run) -> None:
    assert encode(decode(encode(run), NAME)) == encode(run)


def test_every_field_of_the_records_is_in_a_golden() -> None:
    """The builder sets every field, so that a field that is lost shows."""
    run = make_rich_run()
    for record in (run.model, run.environment, run.prompt, run.generated):
        for field in fields(record):
            default = None if field.default is MISSING else field.default
            assert getattr(record, field.name) not in (default, (), {}, ""), field.name
    back = decode(encode(run), NAME)
    assert (back.model, back.environment, back.prompt) == (run.model, run.environment, run.prompt)
    assert (back.generated, back.calibration) == (run.generated, run.calibration)


def test_settings_of_the_comparison_are_not_in_a_golden() -> None:
    run = make_rich_run()
    asked = replace(run, tolerance=0.1, tokens="close", is_exact=True, tensors={("h", 0): 1})
    assert encode(asked) == encode(run)


def test_real_summaries_survive_to_seven_digits() -> None:
    run = make_rich_run()
    back = decode(encode(run), NAME)
    assert encode(back) == encode(run)
    for call, other in zip(run.calls, back.calls, strict=True):
        for leaf, again in zip(call.leaves, other.leaves, strict=True):
            assert again.summary.norms == leaf.summary.norms
            assert again.summary.sketch == leaf.summary.sketch
            assert again.summary.digest == leaf.summary.digest
            assert again.summary.noise == leaf.summary.noise
            assert again.summary.mean == pytest.approx(leaf.summary.mean, rel=1e-6)
    assert compare(back, run).drifts == compare(run, back).drifts == ()


def test_shared_tensor_is_written_once_and_shared_again() -> None:
    run = make_rich_run()
    text = encode(run)
    assert text.count('"same":"h.0.mlp#0 out"') == 2
    assert text.count('"sketch"') == 3
    first, second, third = (call.leaves[-1].summary for call in decode(text, NAME).calls[:3])
    assert first is second is third


def test_equal_tensors_that_are_separate_objects_are_written_separately() -> None:
    run = make_run(make_call("a", make_summary()), make_call("b", make_summary()))
    assert encode(run).count('"sketch"') == 2


def test_same_run_gives_the_same_bytes() -> None:
    assert encode(make_rich_run()) == encode(make_rich_run())


def test_top_level_keys_are_in_the_documented_order() -> None:
    document = json.loads(encode(make_rich_run()))
    top = ["format", "kind", "model", "environment", "calibration", "input", "output", "calls"]
    assert list(document) == top
    assert document["format"] == FORMAT == 1


def test_nested_keys_are_sorted() -> None:
    config = {"b": {"y": 1, "x": 2}, "a": 3}
    other = {"a": 3, "b": {"x": 2, "y": 1}}
    first, second = (make_run(model={"config": c, "generation": c}) for c in (config, other))
    assert encode(first) == encode(second)


def test_text_is_written_without_escapes() -> None:
    assert '"text":"H\u00e9"' in encode(make_rich_run())


def test_a_value_that_json_cannot_hold_is_refused() -> None:
    """Otherwise the golden could not be read again."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(make_run(model={"config": {"limit": float("nan")}}))


def test_a_mask_takes_a_few_numbers_however_long_it_is() -> None:
    mask = {"attention_mask": ((0,) * 100 + (1,) * 4000,), "position_ids": (tuple(range(4100)),)}
    run = make_run(prompt=Prompt("Hello", tensors=mask))
    tensors = json.loads(encode(run))["input"]["tensors"]
    assert tensors == {
        "attention_mask": [[[0, 0, 100], [1, 0, 4000]]],
        "position_ids": [[[0, 1, 4100]]],
    }


def test_there_is_one_call_per_line() -> None:
    run = make_rich_run()
    lines = encode(run).splitlines()
    calls = [line for line in lines if line.startswith('{"path":')]
    assert [json.loads(line.rstrip(","))["path"] for line in calls] == [c.path for c in run.calls]
    assert lines[-2 - len(calls) - 1] == '"calls": ['
    assert lines[-2:] == ["]", "}"]


def test_document_ends_with_one_newline() -> None:
    assert encode(make_rich_run()).endswith("]\n}\n")
    assert encode(make_run(calls=())).endswith("]\n}\n")


def test_statistics_are_as_short_as_they_can_be() -> None:
    summary = make_summary()._replace(mean=2.0, std=0.100000001490116, minimum=-0.0)
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
    assert len(line.encode()) <= 500 + 7 * tokens
