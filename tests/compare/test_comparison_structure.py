"""Calls that are added, missing or changed: order, containers, shapes, dtypes, classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import (
    make_call,
    make_generation,
    make_run,
    make_summary,
    normal,
    summarize,
)

from pytest_nnsight.compare.comparison import Comparison, compare
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.run import Call, Leaf, Run, Summary


def only(comparison: Comparison) -> Drift:
    """Return the only drift."""
    assert len(comparison.drifts) == 1, comparison.drifts
    return comparison.drifts[0]


def with_outputs(output: str, *leaves: tuple[str, Summary], **changes: Any) -> Call:
    return make_call(
        output=output, leaves=tuple(Leaf(at, summary) for at, summary in leaves), **changes
    )


def test_one_tuple_against_tensor_fails_as_container() -> None:
    golden = make_run(with_outputs("(tensor,)", ("out[0]", make_summary())))
    drift = only(compare(golden, make_run()))
    assert (drift.kind, drift.note) == ("container", False)
    assert (drift.expected, drift.received) == ("(tensor,)", "tensor")


def test_values_inside_a_changed_container_are_still_compared() -> None:
    golden = make_run(with_outputs("(tensor,)", ("out[0]", make_summary())))
    received = make_run(make_call(summary=make_summary(noise=1e-2)))
    for before, now in ((golden, received), (received, golden)):
        drifts = compare(before, now).failures
        assert [drift.kind for drift in drifts] == ["container", "values"]
        assert 5e-3 < drifts[1].rel < 2e-2


OLD, NEW = "Output(logits=tensor, past=(tensor,))", "Output(logits=tensor, cache=(tensor,))"


def renamed(noise: float = 0.0) -> tuple[Run, Run]:
    """Return two runs between which ``past`` was renamed to ``cache``, whose tensor drifts."""
    logits, past = ("out.logits", make_summary()), make_summary(seed=1)
    golden = make_run(with_outputs(OLD, logits, ("out.past[0]", past)))
    cache = make_summary(noise, seed=1)
    return golden, make_run(with_outputs(NEW, logits, ("out.cache[0]", cache)))


def test_a_renamed_output_with_equal_values_is_a_structural_change() -> None:
    comparison = compare(*renamed())
    assert [drift.kind for drift in comparison.structural_changes] == ["container"]
    assert len(comparison.values) == 2
    assert comparison.failures == comparison.structural_changes


def test_a_drift_behind_a_renamed_output_is_found_and_named() -> None:
    golden, received = renamed(noise=1e-2)
    for run in (received, replace(received, structure="values")):
        comparison = compare(golden, run)
        assert comparison.structural_changes == ()
        found = [(drift.kind, drift.label) for drift in comparison.failures]
        assert found == [("container", "h.0"), ("values", "h.0 out.past[0]")]


@pytest.mark.parametrize("change", [{"output": "(tensor,)"}, {"module_class": "New"}], ids=str)
def test_values_only_accepts_another_structure(change: dict[str, Any]) -> None:
    received = make_run(make_call(**change))
    assert not compare(make_run(), received).matches
    comparison = compare(make_run(), replace(received, structure="values"))
    assert comparison.matches
    assert len(comparison.structural_changes) == 1


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (make_call("h.9"), "missing"),
        (make_call(output="None", leaves=()), "fewer tensors"),
        (make_call(summary=make_summary(shape=(1, 8, 64))), "shape"),
        (make_call(summary=summarize(torch.ones(1, 7, 64).long())), "dtype"),
        (make_call(output="(tensor,)", summary=make_summary(1e-2)), "container"),
    ],
    ids=["call", "tensor", "shape", "dtype", "value"],
)
def test_values_only_still_fails_on(call: Call, kind: str) -> None:
    comparison = compare(make_run(), replace(make_run(call), structure="values"))
    assert [drift.kind for drift in comparison.failures][:1] == [kind]
    assert comparison.structural_changes == ()


@pytest.mark.parametrize(
    ("before", "now"),
    [("'b'", "'c'"), ("(tensor, 5)", "(tensor, -5)"), ("{a=True}", "{a=False}"), ("'1'", "1")],
)
def test_another_number_or_text_in_a_container_is_not_structural(before: str, now: str) -> None:
    received = replace(make_run(make_call(output=now)), structure="values")
    assert not compare(make_run(make_call(output=before)), received).matches


def test_other_generated_ids_are_not_a_structural_change() -> None:
    golden, received = (make_generation(5, last, margin=0.5) for last in (6, 7))
    calls = (make_call(output="(tensor,)"),)
    comparison = compare(golden, replace(received, calls=calls, structure="values"))
    assert [drift.kind for drift in comparison.failures] == ["container", "ids"]


def test_a_none_output_that_became_a_tensor_is_a_note() -> None:
    golden = make_run(with_outputs("(tensor, None)", ("out[0]", make_summary())))
    both = (("out[0]", make_summary()), ("out[1]", make_summary()))
    comparison = compare(golden, make_run(with_outputs("(tensor, tensor)", *both)))
    assert comparison.matches
    drift = only(comparison)
    assert (drift.kind, drift.note) == ("container", True)


def test_an_output_that_became_none_fails_unless_the_attention_implementation_changed() -> None:
    """Only eager attention returns its weights."""
    both = (("out[0]", make_summary()), ("out[1]", make_summary()))
    golden = make_run(with_outputs("(tensor, tensor)", *both))
    lost = with_outputs("(tensor, None)", ("out[0]", make_summary()))
    drift = only(compare(golden, make_run(lost)))
    assert (drift.kind, drift.note) == ("fewer tensors", False)
    assert only(compare(golden, make_run(lost, environment={"attention": "eager"}))).note is True


def test_a_tensor_next_to_a_none_that_became_a_tensor_is_still_compared() -> None:
    golden = make_run(with_outputs("(None, tensor)", ("out[1]", make_summary())))
    both = (("out[0]", make_summary()), ("out[1]", make_summary(noise=1e-2)))
    comparison = compare(golden, make_run(with_outputs("(tensor, tensor)", *both)))
    assert [drift.label for drift in comparison.failures] == ["h.0 out[1]"]


def test_missing_and_added_calls_fail() -> None:
    golden = make_run(make_call("h.0"), make_call("h.1"))
    received = make_run(make_call("h.0"), make_call("h.2"), make_call("h.0", visit=2))
    comparison = compare(golden, received)
    drifts = comparison.failures
    assert [(drift.kind, drift.label) for drift in drifts] == [
        ("missing", "h.1"),
        ("added", "h.2"),
        ("added", "h.0#2"),
    ]
    assert (drifts[0].expected, drifts[1].received) == ("tensor", "tensor")
    assert comparison.calls == 4


def test_a_call_added_by_another_attention_implementation_is_a_note() -> None:
    """Only GPT-2's eager attention, up to transformers 5.2, calls its dropout module."""
    sdpa = (make_call("h.0.attn"), make_call("h.0"))
    eager = (make_call("h.0.attn.attn_dropout"), *sdpa)
    for before, now in ((sdpa, eager), (eager, sdpa)):
        assert not compare(make_run(*before), make_run(*now)).matches
        comparison = compare(make_run(*before), make_run(*now, environment={"attention": "eager"}))
        assert comparison.matches
        assert only(comparison).kind in ("added", "missing")


def test_a_missing_call_fails_if_its_parent_is_not_compared() -> None:
    """Otherwise a test that captures other modules would compare nothing and pass."""
    golden, received = make_run(make_call("h.0.mlp")), make_run(make_call("h.1.mlp"))
    other = make_run(make_call("h.1.mlp"), environment={"attention": "eager"})
    for run in (received, other):
        assert [d.kind for d in compare(golden, run).failures] == ["missing", "added"]


def test_an_added_call_has_the_position_of_the_call_before_it() -> None:
    golden = make_run(make_call("a"), make_call("b"), make_call("c"))
    received = make_run(
        make_call("x"), make_call("a"), make_call("b"), make_call("y"), make_call("c")
    )
    added = compare(golden, received).failures
    assert [(drift.label, drift.position) for drift in added] == [("x", 0), ("y", 1)]


def test_calls_are_aligned_by_path_and_visit() -> None:
    calls = (make_call("h.1", visit=0), make_call("h.1", make_summary(seed=5), visit=1))
    assert compare(make_run(*calls), make_run(*reversed(calls))).matches


def test_reordered_calls_are_one_note_at_the_first_change() -> None:
    calls = [make_call(path, make_summary(seed=i)) for i, path in enumerate("abcd")]
    comparison = compare(make_run(*calls), make_run(calls[0], calls[2], calls[1], calls[3]))
    drift = only(comparison)
    assert comparison.matches
    assert (drift.kind, drift.note, drift.position) == ("order", True, 1)
    assert (drift.expected, drift.received) == ("b", "c")


def test_an_added_call_does_not_change_the_order_of_the_others() -> None:
    calls = [make_call(path) for path in "abc"]
    received = make_run(calls[0], make_call("x"), *calls[1:])
    assert [drift.kind for drift in compare(make_run(*calls), received).drifts] == ["added"]


def test_changed_shape_fails() -> None:
    received = make_run(make_call(summary=make_summary(shape=(1, 8, 64))))
    drift = only(compare(make_run(), received))
    assert (drift.kind, drift.expected, drift.received) == ("shape", "[1, 7, 64]", "[1, 8, 64]")


def test_the_same_number_of_values_in_another_shape_fails() -> None:
    x = normal(1, 8, 64)
    golden, received = (make_run(make_call(summary=summarize(z))) for z in (x, x.view(8, 1, 64)))
    assert [drift.kind for drift in compare(golden, received).failures] == ["shape"]


def test_changed_module_class_fails() -> None:
    drift = only(compare(make_run(), make_run(make_call(module_class="NewBlock"))))
    assert (drift.kind, drift.expected, drift.received) == ("class", "Block", "NewBlock")


def test_floats_that_became_integers_fail_as_dtype() -> None:
    ones = make_call(summary=summarize(torch.ones(1, 7, 64)))
    longs = make_call(summary=summarize(torch.ones(1, 7, 64, dtype=torch.int64)))
    drift = only(compare(make_run(ones), make_run(longs)))
    assert (drift.kind, drift.expected, drift.received) == ("dtype", "float32", "int64")
    other = {"dtype": "bfloat16"}
    assert [d.kind for d in compare(make_run(ones), make_run(longs, environment=other)).failures]


def test_a_half_type_inside_a_model_of_the_same_dtype_fails() -> None:
    x = normal(1, 7, 64)
    golden, received = (make_run(make_call(summary=summarize(z))) for z in (x, x.bfloat16()))
    assert [d.kind for d in compare(golden, received).failures] == ["dtype", "values"]


def test_a_model_in_a_half_type_is_compared_by_value() -> None:
    x = normal(1, 7, 64)
    golden = make_run(make_call(summary=summarize(x)))
    received = make_run(
        make_call(summary=summarize(x.bfloat16())), environment={"dtype": "bfloat16"}
    )
    comparison = compare(golden, received)
    assert comparison.matches
    assert comparison.noise > 1e-5
