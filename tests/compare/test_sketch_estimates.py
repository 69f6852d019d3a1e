"""How well two sketches estimate the distance of their tensors, by kind of change."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from builders import distance, normal, summarize, summarize_all

from pytest_nnsight.compare.distance import true_distance
from pytest_nnsight.run import Summary
from pytest_nnsight.summary.statistics import tokens_of

Change = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
TOKENS = (1, 7, 61, 256)
DRAWS = 60


def one_of(size: int, luck: torch.Generator) -> int:
    return int(torch.randint(size, (), generator=luck))


def dense_noise(x: torch.Tensor, luck: torch.Generator) -> torch.Tensor:
    return x + 1e-3 * torch.randn(x.shape, generator=luck)


def one_channel(x: torch.Tensor, luck: torch.Generator) -> torch.Tensor:
    y = x.clone()
    y[..., one_of(x.shape[-1], luck)] += 1.0
    return y


def one_token(x: torch.Tensor, luck: torch.Generator) -> torch.Tensor:
    y = x.clone()
    y[0, one_of(x.shape[1], luck)] += torch.randn(x.shape[-1], generator=luck)
    return y


def one_element(x: torch.Tensor, luck: torch.Generator) -> torch.Tensor:
    y = x.clone()
    y[0, one_of(x.shape[1], luck), one_of(x.shape[-1], luck)] += 1.0
    return y


def swapped_tokens(x: torch.Tensor, luck: torch.Generator) -> torch.Tensor:
    first, second = torch.randperm(x.shape[1], generator=luck)[:2].tolist()
    y = x.clone()
    y[:, [first, second]] = x[:, [second, first]]
    return y


def swapped_channels(x: torch.Tensor, luck: torch.Generator) -> torch.Tensor:
    first, second = torch.randperm(x.shape[2], generator=luck)[:2].tolist()
    y = x.clone()
    y[..., [first, second]] = x[..., [second, first]]
    return y


def rolled_heads(x: torch.Tensor, luck: torch.Generator) -> torch.Tensor:
    return x.unflatten(2, (-1, 64)).roll(1, 2).flatten(2)


def swapped_heads(x: torch.Tensor, luck: torch.Generator) -> torch.Tensor:
    heads = x.unflatten(2, (-1, 64))
    first, second = torch.randperm(heads.shape[2], generator=luck)[:2].tolist()
    y = heads.clone()
    y[:, :, [first, second]] = heads[:, :, [second, first]]
    return y.flatten(2)


def same_vector(x: torch.Tensor, luck: torch.Generator) -> torch.Tensor:
    return x + 0.1 * torch.randn(x.shape[-1], generator=luck)


# Bounds of the 1st, 50th and 99th percentile of estimate / truth, by the number of tokens.
# All tokens share 61 samples of a drift, or have one each if there are more tokens.
Bounds = dict[int, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]]
SPREAD: Bounds = {
    1: ((0.68, 0.95), (0.95, 1.05), (1.05, 1.30)),
    7: ((0.65, 0.90), (0.93, 1.07), (1.10, 1.35)),
    61: ((0.65, 0.90), (0.93, 1.07), (1.10, 1.35)),
    256: ((0.80, 0.95), (0.96, 1.04), (1.04, 1.20)),
}
IN_ONE_TOKEN: Bounds = {
    1: SPREAD[1],
    7: ((0.35, 0.75), (0.85, 1.15), (1.30, 1.90)),
    61: ((0.0, 0.15), (0.4, 0.95), (1.7, 3.2)),
    256: ((0.0, 0.15), (0.4, 0.95), (1.7, 3.2)),
}
IN_TWO_TOKENS: Bounds = {
    7: ((0.40, 0.85), (0.88, 1.12), (1.20, 1.75)),
    61: ((0.0, 0.35), (0.6, 1.1), (1.5, 2.8)),
    256: ((0.0, 0.35), (0.6, 1.1), (1.5, 2.8)),
}
# In one token, two channels are seen exactly, unless both fall into one bucket.
IN_TWO_CHANNELS: Bounds = {**SPREAD, 1: ((0.0, 1.0), (0.998, 1.002), (1.0, 1.45))}
EXACT: Bounds = dict.fromkeys(TOKENS, ((0.995, 1.0), (0.998, 1.002), (1.0, 1.005)))
CHANGES: dict[Change, Bounds] = {
    dense_noise: SPREAD,
    one_channel: EXACT,
    one_token: IN_ONE_TOKEN,
    one_element: EXACT,
    swapped_tokens: IN_TWO_TOKENS,
    swapped_channels: IN_TWO_CHANNELS,
    rolled_heads: SPREAD,
    swapped_heads: SPREAD,
    same_vector: SPREAD,
}
CASES = [
    pytest.param(change, tokens, id=f"{change.__name__}-{tokens}")
    for change, bounds in CHANGES.items()
    for tokens in bounds
]


@cache
def originals(tokens: int, width: int) -> tuple[tuple[torch.Tensor, ...], tuple[Summary, ...]]:
    tensors = tuple(normal(1, tokens, width, seed=seed) for seed in range(DRAWS))
    return tensors, tuple(summarize_all(tensors))


def ratios(change: Change, tokens: int, width: int) -> np.ndarray:
    """Return estimate / true distance for many tensors."""
    before, old = originals(tokens, width)
    luck = torch.Generator().manual_seed(tokens)
    after = [change(tensor, luck) for tensor in before]
    estimates = [distance(a, b).rms for a, b in zip(old, summarize_all(after), strict=True)]
    truths = [
        true_distance(tokens_of(x).numpy(), tokens_of(y).numpy()).rms
        for x, y in zip(before, after, strict=True)
    ]
    return np.array(estimates) / np.array(truths)


@pytest.mark.parametrize(("change", "tokens"), CASES)
def test_estimate_of_the_distance(change: Change, tokens: int) -> None:
    found = ratios(change, tokens, 576)
    percentiles = np.percentile(found, [1, 50, 99])
    for value, (low, high) in zip(percentiles, CHANGES[change][tokens], strict=True):
        assert low <= value <= high, percentiles


@pytest.mark.parametrize("change", [dense_noise, one_token, swapped_heads, same_vector])
def test_estimate_of_a_narrow_tensor(change: Change) -> None:
    """Its width is only a little above the number of buckets."""
    percentiles = np.percentile(ratios(change, 61, 128), [1, 50, 99])
    for value, (low, high) in zip(percentiles, CHANGES[change][61], strict=True):
        assert low <= value <= high, percentiles


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("change", [dense_noise, same_vector, one_token, swapped_channels])
def test_squared_estimate_is_unbiased(change: Change, tokens: int) -> None:
    """Over 60 draws; with one sample each (one token of many) the error of the mean is 0.2."""
    samples = DRAWS * (max(61, tokens) if change is not one_token else -(-61 // tokens))
    squares = np.square(ratios(change, tokens, 576))
    assert squares.mean() == pytest.approx(1.0, abs=4 * (2 / samples) ** 0.5)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("change", [dense_noise, one_token])
def test_the_stated_error_is_the_standard_deviation_of_the_estimate(
    change: Change, tokens: int
) -> None:
    before, old = originals(tokens, 576)
    luck = torch.Generator().manual_seed(7)
    new = summarize_all([change(tensor, luck) for tensor in before])
    stated = float(np.mean([distance(a, b).error for a, b in zip(old, new, strict=True)]))
    measured = float(ratios(change, tokens, 576).std())
    assert 0.6 < stated / measured < 1.6


@pytest.mark.parametrize("width", [64, 128, 256, 512, 576, 768, 1024, 2048, 4096])
@pytest.mark.parametrize(("tokens", "factor"), [(1, 1.4), (8, 1.4), (60, 1.4), (61, 1.8)])
def test_an_equal_shift_of_all_channels_is_found(tokens: int, factor: float, width: int) -> None:
    """Noise in logits is often one number for all channels; many tokens average it out."""
    x = normal(1, tokens, width)
    y = x + 0.01
    truth = true_distance(x[0].numpy(), y[0].numpy()).rms
    assert 1 / factor < distance(summarize(x), summarize(y)).rms / truth < factor


def test_estimate_grows_with_the_change() -> None:
    x = normal(1, 41, 64)
    noise = normal(1, 41, 64, seed=1)
    sizes = [1e-5, 1e-4, 1e-3, 1e-2]
    found = [distance(summarize(x), summarize(x + size * noise)).rms for size in sizes]
    for size, estimate in zip(sizes, found, strict=True):
        assert estimate == pytest.approx(found[-1] * size / sizes[-1], rel=0.02)


def test_one_massive_token_does_not_hide_the_others() -> None:
    x = normal(1, 16, 576)
    x[0, 0] *= 300
    y = x.clone()
    y[0, 1:] += 1e-3 * normal(15, 576, seed=1)
    assert distance(summarize(x), summarize(y)).rms == pytest.approx(1e-3, rel=0.4)


def test_a_change_of_the_massive_token_is_found() -> None:
    x = normal(1, 16, 576)
    x[0, 0] *= 300
    y = x.clone()
    y[0, 0] *= 1.01
    found = distance(summarize(x), summarize(y))
    assert found.token == 0
    assert found.worst == pytest.approx(0.0099, rel=0.5)
    assert found.rms == pytest.approx(found.worst / 4, rel=0.01)


def test_a_token_near_zero_is_compared_with_a_tenth_of_the_median_norm() -> None:
    """Otherwise its rounding errors would be the largest drift."""
    x = normal(1, 9, 64)
    x[0, 4] *= 1e-6
    y = x.clone()
    y[0, 4] += 1e-6 * normal(64, seed=1)
    found, truth = (
        distance(summarize(x), summarize(y)),
        true_distance(x[0].numpy(), y[0].numpy()),
    )
    assert truth.worst == pytest.approx(1e-5, rel=0.3)
    assert found.worst == pytest.approx(truth.worst, rel=0.7)
