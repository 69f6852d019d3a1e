"""Pair the tensors of two calls, and compare their containers."""

from __future__ import annotations

import pytest
from builders import make_call, make_summary

from pytest_nnsight.compare.pairing import is_input, pair
from pytest_nnsight.run import Call, Leaf

ANY = make_summary()


def call(output: str, *locations: str) -> Call:
    return make_call(output=output, leaves=tuple(Leaf(at, ANY) for at in locations))


def paired_locations(golden: Call, received: Call, may_lose: bool = False) -> list[tuple[str, str]]:
    return [(old.at, new.at) for old, new in pair(golden, received, may_lose)[0]]


def verdict(golden: Call, received: Call, may_lose: bool = False) -> str | None:
    return pair(golden, received, may_lose)[1]


def test_equal_containers_pair_every_tensor() -> None:
    both = call("(tensor, None, {a=tensor})", "out[0]", "out[2].a")
    assert verdict(both, both) is None
    assert paired_locations(both, both) == [("out[0]", "out[0]"), ("out[2].a", "out[2].a")]


@pytest.mark.parametrize(
    ("golden", "received", "expected"),
    [
        (("(tensor,)", "out[0]"), ("tensor", "out"), [("out[0]", "out")]),
        (("tensor", "out"), ("(tensor,)", "out[0]"), [("out", "out[0]")]),
        (
            ("(tensor, tensor)", "out[0]", "out[1]"),
            ("[tensor, tensor]", "out[0]", "out[1]"),
            [("out[0]", "out[0]"), ("out[1]", "out[1]")],
        ),
        (
            ("Output(a=tensor, b=tensor)", "out.a", "out.b"),
            ("(tensor, tensor)", "out[0]", "out[1]"),
            [("out.a", "out[0]"), ("out.b", "out[1]")],
        ),
        (("(tensor, tensor)", "out[0]", "out[1]"), ("(tensor, None)", "out[0]"), [("out[0]",) * 2]),
        (
            (
                "Output(logits=tensor, past=(tensor, tensor))",
                "out.logits",
                "out.past[0]",
                "out.past[1]",
            ),
            (
                "Output(loss=tensor, logits=tensor, cache=(tensor, tensor))",
                "out.loss",
                "out.logits",
                "out.cache[0]",
                "out.cache[1]",
            ),
            [
                ("out.logits", "out.logits"),
                ("out.past[0]", "out.cache[0]"),
                ("out.past[1]", "out.cache[1]"),
            ],
        ),
    ],
    ids=["unwrapped", "wrapped", "list", "tuple", "lost", "renamed"],
)
def test_tensors_of_another_container_pair_in_order(
    golden: tuple[str, ...], received: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    before, now = call(*golden), call(*received)
    assert paired_locations(before, now) == expected
    assert verdict(before, now) == ("fail" if len(expected) == len(golden) - 1 else "lost")


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("(tensor, None)", "(tensor, tensor)"),
        ("(None, tensor)", "(tensor, tensor)"),
        ("(tensor, None, None)", "(tensor, None, tensor)"),
        ("(tensor, None, None)", "(tensor, tensor, tensor)"),
        ("Output(logits=tensor, cache=None)", "Output(logits=tensor, cache=tensor)"),
    ],
)
def test_a_none_replaced_by_a_tensor_is_a_note(before: str, now: str) -> None:
    other = {"(N": "out[1]", "Ou": "out.logits"}.get(before[:2], "out[0]")
    golden, received = call(before, other), call(now, "out.new", other)
    assert verdict(golden, received) == "note"
    assert paired_locations(golden, received) == [(other, other)]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("(tensor, None)", "(tensor, tensor, None)"),
        ("(tensor, None)", "(tensor, DynamicCache)"),
        ("(tensor, None)", "[tensor, tensor]"),
        ("(tensor, None)", "(tensor, None, None)"),
        ("(tensor, None)", "(tensor, tensortensor)"),
        ("Output(logits=tensor)", "Output(logits=tensor, extra=tensor)"),
    ],
)
def test_other_changes_of_the_container_fail(before: str, now: str) -> None:
    location = "out.logits" if "logits" in before else "out[0]"
    golden, received = call(before, location), call(now, location)
    assert verdict(golden, received) == "fail"
    assert verdict(golden, received, may_lose=True) == "fail"


def test_a_tensor_replaced_by_none_is_a_note_if_the_call_may_lose_tensors() -> None:
    """Attention weights are an example, with another attention implementation."""
    golden = call("(tensor, tensor)", "in.0", "out[0]", "out[1]")
    received = call("(tensor, None)", "in.0", "out[0]")
    assert verdict(golden, received) == "lost"
    assert verdict(golden, received, may_lose=True) == "note"
    assert paired_locations(golden, received, may_lose=True) == [
        ("in.0", "in.0"),
        ("out[0]", "out[0]"),
    ]
    other = call("[tensor, None]", "out[0]")
    assert verdict(golden, other, may_lose=True) == "lost"


def test_inputs_pair_by_location_only() -> None:
    golden = call("tensor", "in.0", "in.mask", "out")
    received = call("tensor", "in.mask", "in.1", "out")
    assert paired_locations(golden, received) == [("in.mask", "in.mask"), ("out", "out")]
    assert verdict(golden, received) is None


def test_an_input_never_pairs_with_an_output() -> None:
    golden, received = call("tensor", "in.0", "out"), call("(tensor,)", "out[0]")
    assert paired_locations(golden, received) == [("out", "out[0]")]


@pytest.mark.parametrize(
    ("at", "enters"),
    [
        ("in", True),
        ("in.0", True),
        ("in[0]", True),
        ("in.hidden_states", True),
        ("out", False),
        ("out.in", False),
        ("out[0]", False),
        ("inner", False),
    ],
)
def test_is_input_depends_on_the_location(at: str, enters: bool) -> None:
    assert is_input(Leaf(at, ANY)) is enters
