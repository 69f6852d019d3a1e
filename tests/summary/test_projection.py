"""The random projection of each token: its definition, and why it is an estimate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.run import BUCKETS, numbers_per_token
from pytest_nnsight.summary.projection import project, row_products

SEED = int.from_bytes(b"nnsight", "big")
FIRST_SIGNS = [-1, -1, 1, 1, -1, -1, -1, -1, 1, -1, 1, -1, -1, -1, -1, -1]
FIRST_MIXED = [-1, 1, -1, 1, -1, -1, 1, 1, 1, 1, 1, 1, 1, -1, 1, 1]
WIDTHS = (1, 3, 60, 61, 62, 64, 122, 200)
TOKENS = (1, 2, 17, 60, 61, 62)
quick = settings(deadline=None, max_examples=50)


def bits(key: int, rows: int, columns: int) -> np.ndarray:
    """Return random signs as the definition has them: bit by bit from the words of Philox."""
    words = [int(word) for word in np.random.Philox(key=key).random_raw(rows * columns // 64)]
    flat = [1.0 if words[i // 64] >> i % 64 & 1 else -1.0 for i in range(rows * columns)]
    return np.array(flat).reshape(rows, columns)


def naive_projection(values: torch.Tensor) -> np.ndarray:
    """Project one element after another, as the module's docstring says."""
    tokens, width = values.shape
    numbers = numbers_per_token(tokens)
    count = width // BUCKETS + 1 if tokens > 60 else width
    columns = -(-count // 64) * 64
    signs = bits(SEED + 2 * columns, tokens, columns)
    buckets = np.zeros((tokens, BUCKETS))
    for token, row in enumerate(values.tolist()):
        for index, value in enumerate(row):
            sign = signs[token, index // BUCKETS if tokens > 60 else index]
            buckets[token, index % BUCKETS] += value * sign
    if numbers == BUCKETS:
        return buckets
    mixing = bits(SEED + 1, tokens * numbers, 64)[:, :BUCKETS]
    mixed = mixing.reshape(tokens, numbers, BUCKETS) @ buckets[..., None]
    return mixed[..., 0] / numbers**0.5


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("tokens", TOKENS)
def test_projection_equals_its_definition(tokens: int, width: int) -> None:
    values = normal(tokens, width, seed=width, dtype=torch.float64)
    expected = naive_projection(values)
    assert expected.shape == (tokens, -(-BUCKETS // tokens))
    np.testing.assert_allclose(project(values).numpy(), expected, atol=1e-12)


def test_many_rows_of_buckets_take_signs_of_their_own() -> None:
    """Past 64 rows, more than one word of signs is needed for a token."""
    values = normal(62, 65 * BUCKETS + 5, dtype=torch.float64)
    np.testing.assert_allclose(project(values).numpy(), naive_projection(values), atol=1e-11)


def test_signs_are_the_same_in_every_version_of_numpy_and_torch() -> None:
    """Or goldens of one version could not be compared with those of another."""
    assert project(torch.ones(1, 16))[0, :16].tolist() == FIRST_SIGNS
    assert project(torch.eye(61))[:16, 0].tolist() == FIRST_MIXED


@quick
@given(
    st.integers(1, 70),
    st.integers(1, 200),
    st.floats(-100, 100),
    st.floats(-100, 100),
    st.integers(0, 2**20),
)
def test_projection_is_linear(tokens: int, width: int, a: float, b: float, seed: int) -> None:
    x = normal(tokens, width, seed=seed, dtype=torch.float64)
    y = normal(tokens, width, seed=seed + 1, dtype=torch.float64)
    together, apart = project(a * x + b * y), a * project(x) + b * project(y)
    np.testing.assert_allclose(together.numpy(), apart.numpy(), atol=1e-9)


@pytest.mark.parametrize("tokens", [1, 7, 61, 100])
def test_tensors_in_one_stack_are_projected_each_by_itself(tokens: int) -> None:
    stack = normal(5, tokens, 130, dtype=torch.float64)
    for values, projected in zip(stack, project(stack), strict=True):
        np.testing.assert_allclose(projected.numpy(), project(values).numpy(), atol=1e-12)


@pytest.mark.parametrize("tokens", [1, 2, 7, 30, 61, 100])
@pytest.mark.parametrize("width", [64, 576])
def test_squared_length_is_an_unbiased_estimate_of_the_squared_norm(
    tokens: int, width: int
) -> None:
    """Over 4,000 tokens in all, the mean of the ratio has an error of 0.022 at most."""
    stack = normal(4000 // tokens, tokens, width, dtype=torch.float64)
    ratio = project(stack).square().sum(-1) / stack.square().sum(-1)
    assert float(ratio.mean()) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("tokens", [1, 7, 61, 100])
def test_one_element_keeps_its_size_exactly(tokens: int) -> None:
    width = 200
    for channel in (0, 60, 61, 199):
        values = torch.zeros(tokens, width, dtype=torch.float64)
        values[:, channel] = torch.arange(1, tokens + 1)
        length = project(values).norm(dim=-1)
        np.testing.assert_allclose(length.numpy(), np.arange(1, tokens + 1), rtol=1e-12)


@quick
@given(st.integers(1, 70), st.integers(1, 200), st.integers(0, 2**20))
def test_a_token_reaches_no_projection_but_its_own(tokens: int, width: int, seed: int) -> None:
    values = normal(tokens, width, seed=seed)
    changed = values.clone()
    token = seed % tokens
    changed[token] += 1.0
    differs = (project(values) != project(changed)).any(-1)
    assert not differs[[t for t in range(tokens) if t != token]].any()
    assert differs[token] or width > 1  # signs may cancel where a token has several values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projection_keeps_the_dtype(dtype: torch.dtype) -> None:
    assert project(normal(3, 70, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("width", [1, 8191, 8192, 8193, 20_000])
def test_rows_of_any_width_are_multiplied(width: int) -> None:
    """Wide ones in parts, the last of which may be a short one."""
    rows, others = normal(3, width), normal(3, width, seed=1)
    found = row_products(rows.numpy(), others.numpy(), into := np.empty(3, np.float32))
    assert found is into
    torch.testing.assert_close(
        torch.from_numpy(found).double(),
        (rows.double() * others).sum(1),
        rtol=0,
        atol=1e-6 * width**0.5,
    )
    torch.testing.assert_close(
        torch.from_numpy(row_products(rows.numpy(), np.ones(width, np.float32))).double(),
        rows.double().sum(1),
        rtol=0,
        atol=1e-6 * width**0.5,
    )


@pytest.mark.parametrize("width", [1, 61, 64, 192, 512, 513, 1031, 1536])
def test_a_projection_of_one_number_a_token_has_a_sign_for_each_element(width: int) -> None:
    """However it is computed, its square is right on average."""
    tokens = normal(400, width)
    numbers = project(tokens[None])[0, :, 0]
    assert float(numbers.square().sum() / tokens.square().sum()) == pytest.approx(1, abs=0.45)
    ones = project(torch.eye(width).repeat(-(-61 // width), 1)[None])
    assert ones.abs().unique().tolist() == [1]
