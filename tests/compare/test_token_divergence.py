"""The first token that differs between two generations, and whether it is a near tie."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from builders import (
    make_call,
    make_generation,
    make_greedy,
    make_run,
    make_summary,
    normal,
    summarize,
)

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.token_divergence import (
    TokenDivergence,
    divergence_location,
    first_divergence,
)
from pytest_nnsight.run import ROOT, Generated, Leaf, Prompt, Run
from pytest_nnsight.summary.packing import read_norms

GREEDY = Prompt("Hello", ((1, 2, 3),), generation={"do_sample": False})


def rows(*token_ids: tuple[int, ...], margins: tuple[float, ...] = ()) -> Run:
    """Return a generation of several prompts; ``margins`` has one margin per prompt."""
    packed = (
        tuple(
            np.full(len(row), margin, "<f4").tobytes()
            for row, margin in zip(token_ids, margins, strict=True)
        )
        if margins
        else ()
    )
    generated = Generated(token_ids, tuple("x" for _ in token_ids), packed)
    return make_run(kind="generate", generated=generated, prompt=GREEDY)


def divergence_of(golden: Run, received: Run) -> TokenDivergence:
    divergence = compare(golden, received).divergence
    assert divergence is not None
    return divergence


@pytest.mark.parametrize(
    ("before", "now", "location"),
    [
        (((5, 6),), ((5, 6),), None),
        (((5, 6),), ((5, 7),), (1, 0)),
        (((5, 6),), ((4, 6),), (0, 0)),
        (((5, 6, 7),), ((5, 6),), (2, 0)),
        (((5,),), ((5, 6),), (1, 0)),
        (((5, 6), (1, 2)), ((5, 7), (9, 2)), (0, 1)),
        (((5, 6), (1, 2)), ((5, 7), (1, 9)), (1, 0)),
        ((), (), None),
    ],
)
def test_the_divergence_is_the_first_step_that_differs_in_any_prompt(
    before: tuple[tuple[int, ...], ...],
    now: tuple[tuple[int, ...], ...],
    location: tuple[int, int] | None,
) -> None:
    assert divergence_location(rows(*before), rows(*now)) == location


def test_a_trace_has_no_divergence() -> None:
    assert divergence_location(make_run(), make_generation(5)) is None
    assert compare(make_run(), make_run()).divergence is None


def test_tokens_are_shown_as_text() -> None:
    divergence = divergence_of(make_greedy(5, 6), make_greedy(5, 7))
    assert (divergence.batch_index, divergence.step, divergence.expected, divergence.received) == (
        0,
        1,
        "' 6'",
        "' 7'",
    )


def test_tokens_without_text_are_shown_by_their_id() -> None:
    divergence = divergence_of(rows((1, 2), (3, 4)), rows((1, 2), (3, 5)))
    assert (divergence.batch_index, divergence.step, divergence.expected, divergence.received) == (
        1,
        1,
        "id 4",
        "id 5",
    )


def test_the_end_of_a_shorter_generation_counts_as_a_token() -> None:
    divergence = divergence_of(make_greedy(5, 6, 7), make_greedy(5, 6))
    assert (divergence.step, divergence.expected, divergence.received) == (2, "' 7'", "end")


def test_the_margin_is_the_sum_of_both_runs() -> None:
    assert (
        divergence_of(make_greedy(5, 6, margin=0.5), make_greedy(5, 7, margin=0.25)).margin == 0.75
    )


def test_the_margin_is_that_of_the_prompt_and_step_that_diverge() -> None:
    golden = rows((1, 2), (3, 4), margins=(8.0, 0.5))
    assert divergence_of(golden, rows((1, 2), (3, 5), margins=(16.0, 0.25))).margin == 0.75


def test_an_unknown_margin_is_not_a_near_tie() -> None:
    divergence = divergence_of(rows((1, 2)), rows((1, 3)))
    assert (divergence.margin, divergence.is_near_tie) == (math.inf, False)


def test_sampled_tokens_are_never_a_near_tie() -> None:
    sampled = Prompt("Hello", ((1, 2, 3),), generation={"do_sample": True, "seed": 1})
    divergence = divergence_of(
        make_greedy(5, 6, prompt=sampled), make_greedy(5, 7, prompt=sampled, noise=0.5)
    )
    assert (divergence.margin, divergence.is_near_tie) == (math.inf, False)


def test_infinite_noise_does_not_make_an_unknown_margin_a_near_tie() -> None:
    assert not TokenDivergence(0, 0, "a", "b", margin=math.inf, noise=math.inf).is_near_tie


def test_noise_is_how_far_the_drift_of_all_logits_moves_one_logit() -> None:
    """A drift moves each of n logits by about norm / sqrt(n); the noise is 4.5 times that."""
    golden, received = make_greedy(5, 6), make_greedy(5, 7, noise=1e-4)
    comparison = compare(golden, received)
    norm = read_norms(make_summary(shape=(1, 1, 64), seed=1).norms)[0]
    rms = comparison.values[1, "out"].rms
    assert comparison.divergence is not None
    assert comparison.divergence.noise == pytest.approx(4.5 * rms * norm / 8)
    assert comparison.divergence.noise == pytest.approx(4.5 * 1e-4, rel=0.4)


def test_noise_of_a_tiny_drift_is_that_of_the_tolerance_of_float32() -> None:
    norm = read_norms(make_summary(shape=(1, 1, 64), seed=1).norms)[0]
    divergence = divergence_of(make_greedy(5, 6), make_greedy(5, 7, noise=1e-7))
    assert divergence.noise == pytest.approx(4.5 * 1e-5 * norm / 8)


def test_equal_logits_have_no_noise() -> None:
    divergence = divergence_of(make_greedy(5, 6, margin=1e-6), make_greedy(5, 7, margin=1e-6))
    assert (divergence.noise, divergence.is_near_tie) == (0.0, False)
    assert divergence_of(make_greedy(5, 6, margin=0.0), make_greedy(5, 7, margin=0.0)).is_near_tie


@pytest.mark.parametrize(("margin", "near"), [(0.9, True), (1.1, False)])
def test_a_near_tie_is_a_margin_within_the_noise(margin: float, near: bool) -> None:
    noise = divergence_of(make_greedy(5, 6), make_greedy(5, 7, noise=1e-3)).noise
    half = margin * noise / 2
    divergence = divergence_of(
        make_greedy(5, 6, margin=half), make_greedy(5, 7, noise=1e-3, margin=half)
    )
    assert divergence.is_near_tie is near


@pytest.mark.parametrize("path", ["lm_head", "model.lm_head", ROOT])
def test_logits_are_those_of_the_head_or_the_model(path: str) -> None:
    at = "out.logits" if path == ROOT else "out"
    call = make_call(path, leaves=(Leaf(at, make_summary(shape=(1, 1, 64), seed=0)),))
    values = {(0, at): Distance(rms=1e-3)}
    divergence = first_divergence(make_generation(5, calls=(call,)), make_generation(6), values)
    assert divergence is not None
    assert divergence.noise > 0


def test_other_tensors_are_not_used_as_logits() -> None:
    calls = (
        make_call("mlp", make_summary(shape=(1, 1, 64), seed=0)),
        make_call(
            ROOT,
            leaves=(
                Leaf("out.hidden", make_summary(shape=(1, 1, 64), seed=0)),
                Leaf("in.x", make_summary(shape=(1, 1, 64), seed=0)),
            ),
        ),
        make_call("lm_head", make_summary(shape=(1, 1, 64), seed=0), visit=1),
        make_call("lm_head", make_summary(shape=(7, 64))),
    )
    keys = ((0, "out"), (1, "out.hidden"), (1, "in.x"), (2, "out"), (3, "out"))
    values = dict.fromkeys(keys, Distance(rms=1e-3))
    divergence = first_divergence(make_generation(5, calls=calls), make_generation(6), values)
    assert divergence is not None
    assert divergence.noise == 0.0


def test_noise_is_that_of_the_last_token_of_the_prompt() -> None:
    """The first step has logits of the whole prompt."""
    x = normal(2, 5, 64)
    scale = torch.arange(1.0, 11.0).view(2, 5, 1)
    call = make_call("lm_head", summarize(x * scale))
    norms = read_norms(call.leaves[0].summary.norms)
    golden, received = rows((1,), (3,)), rows((1,), (4,))
    values = {(0, "out"): Distance(rms=1e-3)}
    divergence = first_divergence(
        make_generation(1, calls=(call,), generated=golden.generated), received, values
    )
    assert divergence is not None
    assert divergence.noise == pytest.approx(4.5e-3 * norms[9] / 8)


def test_with_tokens_close_a_near_tie_passes() -> None:
    golden = make_greedy(5, 6, 7, margin=1e-5)
    near = {"noise": 3e-6, "margin": 1e-5, "tokens": "close"}
    comparison = compare(golden, make_greedy(5, 8, 9, **near))
    assert comparison.matches
    assert [(d.label, d.note) for d in comparison.drifts] == [("generated", True)]
    assert comparison.divergence is not None
    assert comparison.divergence.is_near_tie


def test_with_tokens_close_a_clear_margin_fails() -> None:
    clear = make_greedy(5, 8, 9, noise=3e-6, margin=0.5, tokens="close")
    assert not compare(make_greedy(5, 6, 7, margin=0.5), clear).matches


@pytest.mark.parametrize(
    ("dtype", "threads", "tokens", "passes"),
    [
        ("bfloat16", 8, "auto", True),
        ("float16", 8, "auto", True),
        ("bfloat16", 2, "auto", False),
        ("bfloat16", 8, "exact", False),
        ("float32", 8, "auto", False),
    ],
)
def test_a_near_tie_in_a_half_type_passes_on_other_kernels(
    dtype: str, threads: int, tokens: str, passes: bool
) -> None:
    near = {"noise": 3e-6, "margin": 1e-5}
    golden = make_greedy(5, 6, 7, margin=1e-5, environment={"dtype": dtype})
    now = {"dtype": dtype, "threads": threads}
    received = make_greedy(5, 8, 9, **near, environment=now, tokens=tokens)
    assert compare(golden, received).matches is passes


def test_logits_of_a_half_type_are_rounded_themselves() -> None:
    """Each of the two margins may be off by a last bit of the largest logit."""
    noises = []
    for dtype in ("float32", "float16", "bfloat16"):
        runs = [
            make_greedy(*ids, noise=noise, environment={"dtype": dtype})
            for ids, noise in (((5, 6), 0), ((5, 7), 1e-4))
        ]
        divergence = compare(*runs).divergence
        assert divergence is not None
        noises.append(divergence.noise)
        largest = max(leaf.summary.maximum for leaf in runs[0].calls[1].leaves)
        assert 2 < largest < 4
    assert noises[1] - noises[0] == pytest.approx(2 * 2**1 * 2**-10)
    assert noises[2] - noises[0] == pytest.approx(2 * 2**1 * 2**-7)


def test_tokens_are_exact_by_default() -> None:
    near = make_greedy(5, 8, 9, noise=3e-6, margin=1e-5)
    (drift,) = compare(make_greedy(5, 6, 7, margin=1e-5), near).failures
    assert (drift.kind, drift.label) == ("ids", "generated")
    assert (drift.expected, drift.received) == ("3 ids, at 1: 6", "3 ids, at 1: 8")


def test_generated_ids_are_exact_at_any_tolerance() -> None:
    assert not compare(
        make_generation(5, margin=1), make_generation(6, margin=1).within(0.9)
    ).matches
