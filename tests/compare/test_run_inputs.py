"""The inputs of two runs are compared: kind, prompt, masks, positions, settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import make_call, make_run

from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.compare.run_inputs import compare_inputs, first_difference
from pytest_nnsight.run import Prompt, Run

IDS = ((1, 2, 3),)


def only(golden: Run, received: Run) -> Drift:
    """Return the only drift."""
    (drift,) = compare_inputs(golden, received)
    return drift


def prompted(token_ids: tuple[tuple[int, ...], ...] = IDS, **changes: Any) -> Run:
    return make_run(prompt=Prompt("Hello", token_ids, **changes))


def test_equal_inputs_do_not_drift() -> None:
    changes = {"tensors": {"attention_mask": ((1, 1, 1),)}, "generation": {"seed": 1}}
    assert list(compare_inputs(prompted(**changes), prompted(**changes))) == []


def test_a_changed_text_with_the_same_ids_is_not_a_drift() -> None:
    assert list(compare_inputs(prompted(), make_run(prompt=Prompt(None, IDS)))) == []


@pytest.mark.parametrize(
    ("now", "expected", "received"),
    [
        (((1, 9, 3, 4),), "3 ids, at 1: 2", "4 ids, at 1: 9"),
        (((1, 2),), "3 ids, at 2: 3", "2 ids, at 2: end"),
        (((1, 2, 3, 4),), "3 ids, at 3: end", "4 ids, at 3: 4"),
        (((),), "3 ids, at 0: 1", "0 ids, at 0: end"),
        (((1, 2, 3), (4,)), "1 prompts", "2 prompts"),
    ],
)
def test_changed_ids_show_the_first_difference(
    now: tuple[tuple[int, ...], ...], expected: str, received: str
) -> None:
    drift = only(prompted(), prompted(now))
    assert (drift.kind, drift.label, drift.note) == ("ids", "prompt", False)
    assert (drift.expected, drift.received) == (expected, received)


def test_ids_of_a_batch_name_the_prompt() -> None:
    drift = only(prompted(((1, 2), (3, 4))), prompted(((1, 2), (3, 5))))
    assert drift.expected == "2 ids of prompt 1, at 1: 4"
    assert drift.received == "2 ids of prompt 1, at 1: 5"


def test_changed_ids_are_shown_with_their_text() -> None:
    golden = prompted(pieces=(("He", "ll", "o"),))
    received = prompted(((1, 7, 3),), pieces=(("He", "lp", "o"),))
    drift = only(golden, received)
    assert (drift.expected, drift.received) == (
        "3 ids, at 1: 2 ('ll')",
        "3 ids, at 1: 7 ('lp')",
    )


def test_a_missing_id_at_the_end_of_a_prompt_has_no_text() -> None:
    drift = only(prompted(pieces=(("a", "b", "c"),)), prompted(((1, 2),), pieces=(("a", "b"),)))
    assert (drift.expected, drift.received) == ("3 ids, at 2: 3 ('c')", "2 ids, at 2: end")


def test_the_text_of_the_prompt_that_differs_is_shown() -> None:
    golden = prompted(((1, 2), (3, 4)), pieces=(("a", "b"), ("c", "d")))
    received = prompted(((1, 2), (3, 5)), pieces=(("a", "b"), ("c", "e")))
    drift = only(golden, received)
    assert drift.expected.endswith("('d')")
    assert drift.received.endswith("('e')")


def test_a_changed_mask_shows_the_first_difference() -> None:
    golden = prompted(tensors={"attention_mask": ((1, 1, 1),), "position_ids": ((0, 1, 2),)})
    received = prompted(tensors={"attention_mask": ((0, 1, 1),), "position_ids": ((0, 1, 2),)})
    drift = only(golden, received)
    assert (drift.kind, drift.label, drift.note) == ("tensors", "attention_mask", False)
    assert (drift.expected, drift.received) == ("3 values, at 0: 1", "3 values, at 0: 0")


@pytest.mark.parametrize("turned", [False, True])
def test_a_mask_that_only_one_run_has_is_a_note(turned: bool) -> None:
    """The model may compute the same without a mask."""
    runs = [prompted(tensors={"attention_mask": ((1, 1, 1),)}), prompted()]
    drift = only(*(reversed(runs) if turned else runs))
    assert (drift.kind, drift.label, drift.note) == ("tensors", "attention_mask", True)


@pytest.mark.parametrize(
    ("mask", "shown"),
    [
        ((1, 0, 1, 1), (1, 3, 4)),
        ((0, 0, 1, 1), (3, 4)),
        ((1, 1, 1, 0), (1, 2, 3)),
    ],
)
def test_ids_hidden_by_a_changed_mask_are_a_changed_mask(
    mask: tuple[int, ...], shown: tuple[int, ...]
) -> None:
    """A run stores only the ids that its mask does not hide."""
    golden = prompted(((1, 2, 3, 4),), tensors={"attention_mask": ((1, 1, 1, 1),)})
    received = prompted((shown,), tensors={"attention_mask": (mask,)})
    for before, now in ((golden, received), (received, golden)):
        drift = only(before, now)
        assert (drift.kind, drift.label, drift.note) == ("tensors", "attention_mask", False)


@pytest.mark.parametrize(
    ("mask", "shown"),
    [((1, 0, 1, 1), (1, 9, 4)), ((1, 1, 1, 1), (1, 2, 9, 4)), ((0, 1, 1), (2, 3))],
    ids=["hidden", "same", "shorter"],
)
def test_changed_ids_with_a_changed_mask_are_changed_ids(
    mask: tuple[int, ...], shown: tuple[int, ...]
) -> None:
    golden = prompted(((1, 2, 3, 4),), tensors={"attention_mask": ((1, 1, 1, 1),)})
    received = prompted((shown,), tensors={"attention_mask": (mask,)})
    assert [drift.kind for drift in compare_inputs(golden, received)] == ["ids"]


def test_a_changed_number_of_prompts_is_not_a_changed_mask() -> None:
    golden = prompted(((1, 2),), tensors={"attention_mask": ((1, 1),)})
    received = prompted(((1, 2), (3,)), tensors={"attention_mask": ((1, 1), (0, 1))})
    assert [drift.kind for drift in compare_inputs(golden, received)] == ["ids"]


def test_masks_of_changed_prompts_are_not_compared() -> None:
    golden = prompted(tensors={"attention_mask": ((1, 1, 1),)})
    received = prompted(((1, 2),), tensors={"attention_mask": ((1, 1),)})
    assert [drift.kind for drift in compare_inputs(golden, received)] == ["ids"]


@pytest.mark.parametrize(
    ("change", "label", "expected", "received"),
    [
        ({"generation": {"seed": 1, "max_new_tokens": 9}}, "max_new_tokens", "8", "9"),
        ({"generation": {"seed": 1}}, "max_new_tokens", "8", "None"),
        ({"generation": {"seed": 1, "max_new_tokens": 8, "top_k": 5}}, "top_k", "None", "5"),
        ({"intervention": "zero_mlp"}, "intervention", "None", "zero_mlp"),
    ],
)
def test_changed_settings_of_the_test_fail_by_name(
    change: dict[str, object], label: str, expected: str, received: str
) -> None:
    prompt = Prompt("Hello", IDS, generation={"seed": 1, "max_new_tokens": 8})
    drift = only(make_run(prompt=prompt), make_run(prompt=replace(prompt, **change)))
    assert (drift.kind, drift.label, drift.note) == ("settings", label, False)
    assert (drift.expected, drift.received) == (expected, received)


@pytest.mark.parametrize(
    ("dtype", "note"), [("float32", True), ("bfloat16", True), ("int64", False)]
)
def test_a_changed_floating_point_input_is_a_note_a_changed_index_fails(
    dtype: str, note: bool
) -> None:
    before, now = (f"{dtype} [1, 3, 8, 8] {digits}" for digits in ("aa", "bb"))
    golden, received = (prompted(digests={"input": digest}) for digest in (before, now))
    drift = only(golden, received)
    assert (drift.kind, drift.label, drift.note) == ("tensors", "input", note)
    assert (drift.expected, drift.received) == (before, now)
    # A golden that was written before digests were stored:
    assert list(compare_inputs(prompted(), received)) == []


def test_changed_code_of_an_intervention_is_not_a_drift_by_itself() -> None:
    golden = prompted(intervention="f", intervention_code="aa")
    received = prompted(intervention="f", intervention_code="bb")
    assert list(compare_inputs(golden, received)) == []


def test_a_changed_kind_of_run_fails() -> None:
    drift = only(make_run(), make_run(kind="tensors"))
    assert (drift.kind, drift.expected, drift.received) == ("kind", "trace", "tensors")


def test_inputs_that_only_one_run_captured_are_a_note() -> None:
    golden = make_run(make_call("a", inputs="{0=tensor}"), make_call("b"))
    drift = only(golden, make_run(make_call("a"), make_call("b")))
    assert (drift.kind, drift.label, drift.note) == ("settings", "inputs", True)
    assert (drift.expected, drift.received) == ("True", "False")
    assert list(compare_inputs(golden, make_run(calls=()))) == []


def test_equal_ids_have_no_difference() -> None:
    assert first_difference(IDS, IDS) == ("", "")
    assert first_difference((), ()) == ("", "")
