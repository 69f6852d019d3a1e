"""Run x run x tolerance -> drifts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from builders import make_call, make_generation, make_run, make_summary, normal, summarize
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.compare import (
    Comparison,
    Drift,
    compare,
    compare_summaries,
    default_tolerance,
    relative_drift,
    telling_statistics,
)
from pytest_nnsight.errors import UsageError
from pytest_nnsight.run import Call, Leaf, Prompt, Summary


def only(comparison: Comparison) -> Drift:
    """Return the only drift there is."""
    assert len(comparison.drifts) == 1, comparison.drifts
    return comparison.drifts[0]


def with_outputs(output: str, *leaves: tuple[str, Summary]) -> Call:
    return make_call(output=output, leaves=tuple(Leaf(at, summary) for at, summary in leaves))


def test_identical_runs_match() -> None:
    comparison = compare(make_run(), make_run())
    assert (comparison.matches, comparison.drifts, comparison.noise) == (True, (), 0.0)
    assert comparison.calls == 1


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 9),
    st.integers(1, 100),
    st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 100.0]),
    st.sampled_from([0.0, 1e-20, 1.0, 1e20]),
    st.integers(0, 2**20),
)
def test_relative_drift_is_symmetric(
    tokens: int, width: int, noise: float, scale: float, seed: int
) -> None:
    x = normal(1, tokens, width, seed=seed)
    y = x * scale if noise == 0 else x + noise * normal(1, tokens, width, seed=seed + 1)
    a, b = summarize(x), summarize(y)
    assert relative_drift(a, b) == relative_drift(b, a)
    assert relative_drift(a, b)[0] >= 0


def test_values_over_the_tolerance_fail() -> None:
    drift = only(compare(make_run(), make_run(make_call(summary=make_summary(noise=1e-3)))))
    assert (drift.kind, drift.label, drift.note, drift.allowed) == ("values", "h.0", False, 1e-5)
    assert 0.5e-3 < drift.rel < 2e-3


def test_values_under_the_tolerance_pass_and_are_noise() -> None:
    comparison = compare(make_run(), make_run(make_call(summary=make_summary(noise=3e-6))))
    assert comparison.matches
    assert comparison.drifts == ()
    assert 1e-6 < comparison.noise < 1e-5


def test_a_norm_that_moves_names_its_token() -> None:
    x = normal(1, 7, 64)
    y = x.clone()
    y[0, 4] *= 1.5
    drift = only(
        compare(make_run(make_call(summary=summarize(x))), make_run(make_call("h.0", summarize(y))))
    )
    assert (drift.token, drift.rel) == (4, pytest.approx(1 / 3, rel=1e-5))


def test_within_replaces_the_default_tolerance() -> None:
    received = make_run(make_call(summary=make_summary(noise=1e-3)))
    assert not compare(make_run(), received).matches
    assert compare(make_run(), received.within(1e-2)).matches
    assert not compare(make_run(), received.within(1e-4)).matches
    assert received.tolerance is None


def test_tolerance_zero_passes_equal_runs_alone() -> None:
    assert compare(make_run(), make_run().within(0)).matches
    received = make_run(make_call(summary=make_summary(noise=1e-6)))
    assert not compare(make_run(), received.within(0)).matches


@pytest.mark.parametrize("tolerance", [-1e-9, 1, 2.0, math.nan, math.inf])
def test_within_refuses_what_is_no_tolerance(tolerance: float) -> None:
    with pytest.raises(UsageError, match=r"^tolerance must be in \[0, 1\), got "):
        make_run().within(tolerance)


@pytest.mark.parametrize(
    ("golden", "received", "tolerance"),
    [
        ("float64", "float64", 1e-6),
        ("float32", "float32", 1e-5),
        ("float16", "float16", 5e-3),
        ("bfloat16", "bfloat16", 3e-2),
        ("float8_e4m3fn", "float8_e4m3fn", 1e-1),
        ("none", "none", 1e-5),
        ("float32", "bfloat16", 3e-2),
        ("bfloat16", "float32", 3e-2),
        ("float64", "float32", 1e-5),
    ],
)
def test_default_tolerance_is_that_of_the_coarser_dtype(
    golden: str, received: str, tolerance: float
) -> None:
    before = make_run(environment={"dtype": golden})
    now = make_run(environment={"dtype": received})
    assert default_tolerance(before, now) == tolerance
    assert compare(before, now).tolerance == tolerance


def test_one_tuple_against_tensor_fails_as_container() -> None:
    golden = make_run(with_outputs("(tensor,)", ("out[0]", make_summary())))
    drift = only(compare(golden, make_run()))
    assert (drift.kind, drift.note) == ("container", False)
    assert (drift.expected, drift.received) == ("(tensor,)", "tensor")


def test_values_below_a_changed_container_are_still_compared() -> None:
    golden = make_run(with_outputs("(tensor,)", ("out[0]", make_summary())))
    received = make_run(make_call(summary=make_summary(noise=1e-2)))
    for before, now in ((golden, received), (received, golden)):
        drifts = compare(before, now).failures
        assert [drift.kind for drift in drifts] == ["container", "values"]
        assert 5e-3 < drifts[1].rel < 2e-2


def test_output_that_was_none_and_is_a_tensor_now_is_a_note() -> None:
    golden = make_run(with_outputs("(tensor, None)", ("out[0]", make_summary())))
    received = make_run(
        with_outputs("(tensor, tensor)", ("out[0]", make_summary()), ("out[1]", make_summary()))
    )
    comparison = compare(golden, received)
    assert comparison.matches
    drift = only(comparison)
    assert (drift.kind, drift.note) == ("container", True)


def test_output_that_was_a_tensor_and_is_none_now_fails() -> None:
    golden = make_run(
        with_outputs("(tensor, tensor)", ("out[0]", make_summary()), ("out[1]", make_summary()))
    )
    received = make_run(with_outputs("(tensor, None)", ("out[0]", make_summary())))
    assert [drift.kind for drift in compare(golden, received).failures] == ["container"]


def test_tensor_beside_a_filled_none_is_still_compared() -> None:
    golden = make_run(with_outputs("(None, tensor)", ("out[1]", make_summary())))
    other = make_summary(noise=1e-2)
    received = make_run(
        with_outputs("(tensor, tensor)", ("out[0]", make_summary()), ("out[1]", other))
    )
    comparison = compare(golden, received)
    assert [drift.label for drift in comparison.failures] == ["h.0 out[1]"]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("(tensor, None)", "(tensor, tensor, None)"),
        ("(tensor, None)", "(tensor, DynamicCache)"),
        ("(tensor, None)", "[tensor, tensor]"),
        ("Output(logits=tensor)", "Output(logits=tensor, extra=tensor)"),
    ],
)
def test_other_changes_of_the_container_fail(before: str, now: str) -> None:
    place = "out.logits" if "logits" in before else "out[0]"
    golden = make_run(with_outputs(before, (place, make_summary())))
    received = make_run(with_outputs(now, (place, make_summary())))
    assert [drift.kind for drift in compare(golden, received).failures] == ["container"]


def test_inputs_are_compared_by_place() -> None:
    leaves = (Leaf("in.0", make_summary()), Leaf("out", make_summary()))
    golden = make_run(make_call(leaves=leaves, inputs="{0=tensor}"))
    changed = (Leaf("in.0", make_summary(noise=1e-2)), leaves[1])
    received = make_run(make_call(leaves=changed, inputs="{0=tensor}"))
    assert only(compare(golden, received)).label == "h.0 in.0"


def test_missing_and_added_calls_fail() -> None:
    golden = make_run(make_call("h.0"), make_call("h.1"))
    received = make_run(make_call("h.0"), make_call("h.2"), make_call("h.0", visit=2))
    drifts = compare(golden, received).failures
    assert [(drift.kind, drift.label) for drift in drifts] == [
        ("missing", "h.1"),
        ("added", "h.2"),
        ("added", "h.0#2"),
    ]
    assert (drifts[0].expected, drifts[1].received) == ("tensor", "tensor")


def test_calls_are_aligned_by_path_and_visit() -> None:
    calls = (make_call("h.0"), make_call("h.1", make_summary(seed=5)))
    assert compare(make_run(*calls), make_run(*reversed(calls))).matches


def test_drifts_come_in_the_order_of_execution() -> None:
    calls = [make_call(f"h.{i}") for i in range(5)]
    changed = [make_call(f"h.{i}", make_summary(noise=1e-2)) for i in range(5)]
    drifts = compare(make_run(*calls), make_run(*reversed(changed))).failures
    assert [(drift.label, drift.position) for drift in drifts] == [(f"h.{i}", i) for i in range(5)]


def test_changed_shape_fails() -> None:
    received = make_run(make_call(summary=make_summary(shape=(1, 8, 64))))
    drift = only(compare(make_run(), received))
    assert (drift.kind, drift.expected, drift.received) == ("shape", "[1, 7, 64]", "[1, 8, 64]")


def test_changed_module_class_fails() -> None:
    drift = only(compare(make_run(), make_run(make_call(module_class="NewBlock"))))
    assert (drift.kind, drift.expected, drift.received) == ("class", "Block", "NewBlock")


def test_floats_that_became_integers_fail_as_dtype() -> None:
    ones = make_call(summary=summarize(torch.ones(1, 7, 64)))
    longs = make_call(summary=summarize(torch.ones(1, 7, 64, dtype=torch.int64)))
    drift = only(compare(make_run(ones), make_run(longs)))
    assert (drift.kind, drift.expected, drift.received) == ("dtype", "float32", "int64")


def test_half_type_is_compared_by_value() -> None:
    x = normal(1, 7, 64)
    golden = make_run(make_call(summary=summarize(x)))
    received = make_run(
        make_call(summary=summarize(x.bfloat16())), environment={"dtype": "bfloat16"}
    )
    comparison = compare(golden, received)
    assert comparison.matches
    assert comparison.noise > 1e-5


def test_other_prompt_ids_fail_where_they_part() -> None:
    drift = only(compare(make_run(), make_run(prompt=Prompt("Hello", ((1, 9, 3, 4),)))))
    assert (drift.kind, drift.label) == ("ids", "prompt")
    assert (drift.expected, drift.received) == ("3 ids, at 1: 2", "4 ids, at 1: 9")


def test_prompt_ids_that_end_early_say_end() -> None:
    drift = only(compare(make_run(), make_run(prompt=Prompt("Hello", ((1, 2),)))))
    assert (drift.expected, drift.received) == ("3 ids, at 2: 3", "2 ids, at 2: end")


def test_other_number_of_prompts_fails() -> None:
    drift = only(compare(make_run(), make_run(prompt=Prompt("Hello", ((1, 2, 3), (4,))))))
    assert (drift.expected, drift.received) == ("1 prompts", "2 prompts")


def test_ids_of_a_batch_name_the_prompt() -> None:
    golden = make_run(prompt=Prompt(["a", "b"], ((1, 2), (3, 4)), is_batch=True))
    received = make_run(prompt=Prompt(["a", "b"], ((1, 2), (3, 5)), is_batch=True))
    drift = only(compare(golden, received))
    assert (drift.expected, drift.received) == (
        "2 ids of prompt 1, at 1: 4",
        "2 ids of prompt 1, at 1: 5",
    )


def test_other_generated_ids_fail() -> None:
    drift = only(compare(make_generation(5, 6, 7), make_generation(5, 6, 8)))
    assert (drift.kind, drift.label) == ("ids", "generated")
    assert (drift.expected, drift.received) == ("3 ids, at 2: 7", "3 ids, at 2: 8")


def test_generated_ids_are_exact_at_any_tolerance() -> None:
    assert not compare(make_generation(5), make_generation(6).within(0.99)).matches


@pytest.mark.parametrize(
    ("change", "label", "expected", "received"),
    [
        ({"generation": {"seed": 1, "max_new_tokens": 9}}, "max_new_tokens", "8", "9"),
        ({"generation": {"seed": 1}}, "max_new_tokens", "8", "None"),
        ({"intervention": "zero_mlp"}, "intervention", "None", "zero_mlp"),
    ],
)
def test_other_settings_of_the_test_fail_by_name(
    change: dict[str, object], label: str, expected: str, received: str
) -> None:
    prompt = Prompt("Hello", ((1, 2, 3),), generation={"seed": 1, "max_new_tokens": 8})
    drift = only(compare(make_run(prompt=prompt), make_run(prompt=replace(prompt, **change))))
    assert (drift.kind, drift.label) == ("settings", label)
    assert (drift.expected, drift.received) == (expected, received)


def test_other_kind_of_run_fails() -> None:
    drifts = compare(make_run(), make_run(kind="tensors")).failures
    assert [(d.kind, d.expected, d.received) for d in drifts] == [("kind", "trace", "tensors")]


def test_integers_are_equal_or_infinitely_far() -> None:
    golden = summarize(torch.tensor([1, 2, 3]))
    drift = compare_summaries("x", golden, summarize(torch.tensor([1, 3, 2])), tolerance=0.5)
    assert (drift.rel, drift.allowed) == (math.inf, 0.0)
    assert compare_summaries("x", golden, golden, tolerance=0.5).rel == 0.0


@pytest.mark.parametrize(
    ("value", "count"), [(math.nan, "1 NaN, 0 Inf"), (math.inf, "0 NaN, 1 Inf")]
)
def test_nan_or_inf_that_appears_is_infinite_drift(value: float, count: str) -> None:
    x = normal(1, 7, 64)
    y = x.clone()
    y[0, 3, 5] = value
    for before, now in ((x, y), (y, x)):
        drift = compare_summaries("h.0", summarize(before), summarize(now), tolerance=0.5)
        assert drift.rel == math.inf
        assert {drift.expected, drift.received} == {"0 NaN, 0 Inf", count}


def test_the_same_nan_on_both_sides_matches() -> None:
    x = normal(1, 7, 64)
    x[0, 3, 5] = math.nan
    assert relative_drift(summarize(x), summarize(x.clone())) == (0.0, None)


def test_nan_that_wanders_to_another_token_is_seen() -> None:
    x, y = normal(1, 7, 64), normal(1, 7, 64)
    x[0, 3] = math.nan
    y[0, 4] = math.nan
    assert relative_drift(summarize(x), summarize(y))[0] >= 0.5


def test_tensor_that_became_empty_of_values_is_infinite_drift() -> None:
    golden = make_summary()
    assert relative_drift(golden, replace(golden, norms=b"", sketch=b"")) == (math.inf, None)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda x: x + 0.5, "mean"),
        (lambda x: torch.where(x == x.max(), x + 30, x), "max"),
        (lambda x: torch.where(x == x.min(), x - 30, x), "min"),
    ],
)
def test_the_statistic_that_moved_most_is_told(
    change: Callable[[torch.Tensor], torch.Tensor], name: str
) -> None:
    x = normal(1, 7, 64)
    before, now = telling_statistics(summarize(x), summarize(change(x)))
    assert before.startswith(f"{name} ")
    assert before.removeprefix(f"{name} ") != now


def test_statistics_are_told_with_enough_digits_to_differ() -> None:
    golden = make_summary()
    received = replace(golden, mean=golden.mean, maximum=(golden.maximum or 0) + 1e-5)
    before, now = telling_statistics(golden, received)
    assert before.removeprefix("max ") != now
