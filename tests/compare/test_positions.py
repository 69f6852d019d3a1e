"""The real tokens of a tensor, by its shape and place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import make_call, make_generation, make_run

from pytest_nnsight.compare.positions import RealTokens
from pytest_nnsight.run import Generated, Leaf, Prompt, Run, Summary

LEFT = ((0, 0, 1, 1, 1), (1, 1, 1, 1, 1))
DECODER = ((1, 1, 0), (1, 1, 1))


def padded(*paths: str, **changes: Any) -> Run:
    """Return a trace of a batch that is padded on the left."""
    prompt = Prompt(token_ids=((1,), (2,)), tensors={"attention_mask": LEFT}, is_batch=True)
    calls = [make_call(path) for path in paths or ("h.0",)]
    return make_run(*calls, **{"prompt": prompt, **changes})


def two_sided(*paths: str, decoder: tuple[tuple[int, ...], ...] = DECODER) -> Run:
    """Return a trace of an encoder-decoder with padding on both sides."""
    masks = {"attention_mask": LEFT, "decoder_attention_mask": decoder}
    prompt = Prompt(token_ids=((1,), (2,)), tensors=masks, is_batch=True)
    return padded(*paths, prompt=prompt, model={"config": {"is_encoder_decoder": True}})


def real(run: Run, shape: tuple[int, ...], at: str = "out", position: int = 0) -> str:
    """Return a digit for each token of a float tensor; nothing if all are real."""
    count = 1 if len(shape) < 2 else shape[0] if len(shape) == 2 else shape[0] * shape[-2]
    return digits(RealTokens(run).of(position, Leaf(at, Summary(shape, "f", norms=b"xx" * count))))


def digits(found: np.ndarray | None) -> str:
    return "" if found is None else "".join(map(str, found.astype(int)))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 5, 64), "0011111111"),
        ((2, 4, 5, 16), "0011111111"),
        ((2, 4, 5, 5), "0011111111"),
        ((10, 64), "0011111111"),
        ((4, 5, 64), "00111001111111111111"),  # beams, or heads in the batch
        ((1, 5, 64), ""),  # shared: each position is real in one of them
        ((5, 64), ""),
        ((2, 64), ""),  # one value a prompt
        ((2, 7, 64), ""),
        ((64,), ""),
        ((2, 5, 3, 16), "000111"),  # heads before tokens: each mixes all positions of a prompt
        ((2, 3, 5), "000111"),
        ((2, 5), "01"),
    ],
    ids=str,
)
def test_padding_is_found_by_the_shape(shape: tuple[int, ...], expected: str) -> None:
    assert real(padded(), shape) == expected


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [((2, 5), 10, "0011111111"), ((10, 2), 20, "00001111111111111111"), ((5,), 5, "")],
    ids=str,
)
def test_each_integer_is_a_token(shape: tuple[int, ...], count: int, expected: str) -> None:
    summary = Summary(shape, "int64", rows=bytes(4 * count))
    assert digits(RealTokens(padded()).of(0, Leaf("in.0", summary))) == expected


@pytest.mark.parametrize(
    ("shape", "expected"), [((2, 5), ""), ((2, 1, 1, 5), ""), ((2, 1, 5, 5), 1)]
)
def test_a_mask_without_queries_counts_as_a_whole(shape: tuple[int, ...], expected: object) -> None:
    found = real(padded(), shape, at="in.attention_mask")
    assert found == ("0011111111" if expected else "")


def test_positions_that_all_prompts_share_are_padding_where_all_are_padded() -> None:
    prompt = Prompt(tensors={"attention_mask": ((0, 1, 1), (0, 0, 1))})
    assert real(padded(prompt=prompt), (1, 3, 64)) == real(padded(prompt=prompt), (3, 64)) == "011"


def test_without_padding_all_tokens_are_real() -> None:
    prompt = Prompt(tensors={"attention_mask": ((1, 1, 1), (1, 1, 1))})
    assert real(padded(prompt=prompt), (2, 3, 64)) == ""


ENCODER_TOKENS, DECODER_TOKENS = "0011111111", "110111"


@pytest.mark.parametrize(
    ("path", "at", "shape", "expected"),
    [
        ("encoder.block.0", "out", (2, 5, 64), ENCODER_TOKENS),
        ("decoder.block.0", "out", (2, 3, 64), DECODER_TOKENS),
        ("decoder", "in.encoder_hidden_states", (2, 5, 64), ENCODER_TOKENS),
        ("decoder.block.0.EncDecAttention.k", "in.0", (2, 5, 64), ENCODER_TOKENS),
        ("decoder.block.0.EncDecAttention.q", "in.0", (2, 3, 64), DECODER_TOKENS),
        ("lm_head", "out", (2, 3, 64), DECODER_TOKENS),
        ("<model>", "out.encoder_last_hidden_state", (2, 5, 64), ENCODER_TOKENS),
        ("shared", "out", (2, 5, 64), ENCODER_TOKENS),
    ],
)
def test_each_side_has_its_own_padding(
    path: str, at: str, shape: tuple[int, ...], expected: str
) -> None:
    assert real(two_sided(path), shape, at) == expected


@pytest.mark.parametrize(
    ("path", "at", "expected"),
    [
        ("encoder.block.0", "out", "0011111111"),
        ("decoder.block.0", "out", "1111011111"),
        ("decoder.block.0", "in.encoder_hidden_states", "0011111111"),
        ("lm_head", "in.0", "1111011111"),
        ("decoder.block.0.EncDecAttention.k", "out", "0011011111"),  # unknown: real on both sides
        ("shared", "out", "0011011111"),
    ],
)
def test_sides_of_one_length_are_told_apart_by_name(path: str, at: str, expected: str) -> None:
    run = two_sided(path, decoder=((1, 1, 1, 1, 0), (1, 1, 1, 1, 1)))
    assert real(run, (2, 5, 64), at) == expected


def generation(*lengths: int, **settings: Any) -> Run:
    """Return a generation of three steps, in which prompts end after ``lengths`` tokens."""
    calls = [make_call(p, visit=step) for step in range(3) for p in ("h.0", "lm_head")]
    prompt = padded().prompt
    return make_generation(
        calls=tuple(calls),
        prompt=Prompt(prompt.text, prompt.token_ids, tensors=prompt.tensors, generation=settings),
        generated=Generated(tuple((7,) * length for length in lengths)),
    )


@pytest.mark.parametrize(
    ("position", "shape", "expected"),
    [
        (0, (2, 5, 64), "0011111111"),
        (1, (2, 1, 64), ""),  # the logits of the first step
        (2, (2, 1, 64), ""),
        (4, (2, 1, 64), "10"),
        (5, (2, 4, 1, 16), "10"),
        (4, (2, 64), "10"),
        (2, (2, 4, 6, 16), "001111111111"),  # keys, with those of the prompt
        (4, (2, 4, 7, 16), "00111111111110"),
    ],
)
def test_a_prompt_that_has_ended_is_no_longer_real(
    position: int, shape: tuple[int, ...], expected: str
) -> None:
    assert real(generation(3, 2), shape, position=position) == expected


@pytest.mark.parametrize("settings", [{"num_beams": 2}, {"num_return_sequences": 2}])
def test_beams_do_not_end(settings: dict[str, int]) -> None:
    assert real(generation(3, 2, **settings), (2, 1, 64), position=4) == ""
