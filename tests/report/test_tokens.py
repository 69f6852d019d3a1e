"""The name of a drifting token: its index in the prompt and its text."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_call, make_generation, make_run, make_summary

from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.report.tokens import worst_token
from pytest_nnsight.run import Generated, Leaf, Prompt, Run

PIECES = ("The", " Eiffel", " Tower", " is")
PROMPT = Prompt("The Eiffel Tower is", ((1, 2, 3, 4),), (PIECES,))
# Two prompts; the second has two tokens of padding before its two tokens.
BATCH = Prompt(
    ["The Eiffel Tower is", "Hello you"],
    ((1, 2, 3, 4), (5, 6)),
    (PIECES, ("Hello", " you")),
    tensors={"attention_mask": ((1, 1, 1, 1), (0, 0, 1, 1))},
    is_batch=True,
)
RIGHT_PADDED = {"tensors": {"attention_mask": ((1, 1, 1, 1), (1, 1, 0, 0))}}


def name_of(
    token: int | None, shape: tuple[int, ...], run: Run | None = None, at: str = "out", **call: Any
) -> str:
    """Return the name of a token of a tensor, by default in a trace of one prompt."""
    run = run or make_run(prompt=PROMPT)
    leaves = (Leaf("out", make_summary(shape=(1, 1, 8))), Leaf(at, make_summary(shape=shape)))
    call = make_call("h", leaves=leaves[at == "out" :], **call)
    golden = make_run(call, prompt=run.prompt, generated=run.generated)
    label = call.label if at == "out" else f"{call.label} {at}"
    distance = Distance(rms=1e-6, worst=1e-3, token=token)
    return worst_token(golden, Drift("values", label, "h", distance, 1e-5, position=0))


@pytest.mark.parametrize(
    ("token", "text"),
    [(0, "token 0 'The'"), (2, "token 2 ' Tower'"), (3, "token 3 ' is'")],
)
@pytest.mark.parametrize("shape", [(1, 4, 8), (4, 8), (1, 2, 4, 8)], ids=str)
def test_token_of_the_prompt_is_named_with_its_text(
    shape: tuple[int, ...], token: int, text: str
) -> None:
    assert name_of(token, shape) == text


def test_token_of_a_tensor_with_another_length_has_no_text() -> None:
    """Its tokens are not those of the prompt."""
    assert name_of(2, (1, 5, 8)) == "token 2"
    assert name_of(4, (1, 5, 8)) == "token 4"


def test_token_of_a_prompt_without_a_tokenizer_has_no_text() -> None:
    assert name_of(2, (1, 4, 8), make_run(prompt=Prompt(None, ((1, 2, 3, 4),)))) == "token 2"


@pytest.mark.parametrize("shape", [(8,), ()], ids=str)
def test_tensor_with_one_dimension_has_no_tokens(shape: tuple[int, ...]) -> None:
    assert name_of(0, shape) == ""


def test_single_token_is_not_named() -> None:
    assert name_of(None, (1, 1, 8)) == ""


def test_name_belongs_to_the_tensor_that_drifts() -> None:
    assert name_of(2, (1, 4, 8), at="out[1]") == "token 2 ' Tower'"
    assert name_of(2, (1, 4, 8), at="in.hidden_states") == "token 2 ' Tower'"


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (1, "token 1 of prompt 0 ' Eiffel'"),
        (6, "token 0 of prompt 1 'Hello'"),
        (7, "token 1 of prompt 1 ' you'"),
    ],
)
@pytest.mark.parametrize("shape", [(2, 4, 8), (2, 3, 4, 8), (8, 8)], ids=str)
def test_token_of_a_batch_is_counted_without_padding(
    shape: tuple[int, ...], token: int, text: str
) -> None:
    assert name_of(token, shape, make_run(prompt=BATCH)) == text


def test_right_padding_does_not_change_the_index() -> None:
    padded = Prompt(BATCH.text, BATCH.token_ids, BATCH.pieces, is_batch=True, **RIGHT_PADDED)
    assert name_of(5, (2, 4, 8), make_run(prompt=padded)) == "token 1 of prompt 1 ' you'"


@pytest.mark.parametrize("token", [4, 5])
def test_token_of_the_padding_has_no_negative_index(token: int) -> None:
    named = name_of(token, (2, 4, 8), make_run(prompt=BATCH))
    assert "-" not in named
    assert "'" not in named


def generation(**changes: Any) -> Run:
    generated = Generated(((7, 8, 9), (7, 5, 4)), ("x", "y"), (), ((" a", " b", " c"), (" d",) * 3))
    return make_generation(1, generated=generated, prompt=BATCH, **changes)


@pytest.mark.parametrize(
    ("visit", "row", "text"), [(1, 0, " a"), (2, 0, " b"), (2, 1, " d"), (3, 0, " c")]
)
def test_step_of_a_generation_has_the_text_of_its_input_token(
    visit: int, row: int, text: str
) -> None:
    """The first step takes the prompt, each other one the token before it."""
    named = name_of(row, (2, 1, 8), generation(), visit=visit)
    assert named == f"token 0 of prompt {row} {text!r}"


def test_a_step_beyond_what_was_generated_has_no_text() -> None:
    assert name_of(1, (2, 1, 8), generation(), visit=9) == "token 0 of prompt 1"


def test_the_first_step_of_a_generation_has_the_text_of_the_prompt() -> None:
    assert name_of(6, (2, 4, 8), generation()) == "token 0 of prompt 1 'Hello'"


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (Distance(rms=1e-4, worst=9e-4, token=1, pooled=5e-5, pooled_token=3), "token 1 ' Eiffel'"),
        (Distance(rms=1e-6, worst=9e-4, token=1, pooled=5e-5, pooled_token=3), "token 3 ' is'"),
        (Distance(rms=1e-6, worst=9e-4, token=1, pooled=5e-6, pooled_token=3), "token 1 ' Eiffel'"),
    ],
    ids=["all", "pooled", "one"],
)
def test_the_token_is_that_whose_drift_is_over_the_tolerance(distance: Distance, text: str) -> None:
    leaves = (Leaf("out", make_summary(shape=(1, 4, 8))),)
    golden = make_run(make_call("h", leaves=leaves), prompt=PROMPT)
    assert worst_token(golden, Drift("values", "h", "h", distance, 1e-5, position=0)) == text


def test_what_is_in_no_call_of_the_golden_has_no_token() -> None:
    distance = Distance(worst=1.0, token=2)
    for position in (-1, 5):
        drift = Drift("values", "h", "h", distance, position=position)
        assert worst_token(make_run(prompt=PROMPT), drift) == ""
    assert worst_token(make_run(), Drift("values", "h.0 out[7]", "h.0", distance, position=0)) == ""
