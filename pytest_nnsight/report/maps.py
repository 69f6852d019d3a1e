"""Make maps of token by layer: the drift and the norm of each token."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.pairing import is_input
from pytest_nnsight.errors import visible
from pytest_nnsight.report.tokens import token_names
from pytest_nnsight.run import ROOT, Run, token_count
from pytest_nnsight.summary.packing import read_norms

MOST_ROWS, MOST_TOKENS = 128, 256
DRIFT_DECADES, NORM_DECADES = (-9.0, 1.0), (-4.0, 8.0)
_LAYER = re.compile(r"^(\D*\.\d+)(?:\.|$)")


def token_maps(golden: Run, comparison: Comparison | None = None) -> list[dict[str, Any]]:
    """Return maps as JSON, one for each set of layers that see the same tokens.

    A layer is a block of the model, or a module outside of all blocks. Where there are more tokens
    than the page shows, a cell stands for several neighbours and holds the largest number.
    """
    layers: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
    values = comparison.values if comparison is not None else {}
    for label, path in list(_layers(golden).items())[:MOST_ROWS]:
        tokens, numbers = _row(golden, path, values)
        if tokens:
            layers.setdefault(tokens, {})[label] = numbers
    maps = []
    for tokens, rows in layers.items():
        each = -(-len(tokens) // MOST_TOKENS)
        numbers = np.stack([*rows.values()], axis=1)  # norms and drifts, rows, tokens
        unused = -len(tokens) % each
        padded = np.pad(numbers, ((0, 0), (0, 0), (0, unused)), constant_values=np.nan)
        norms, drifts = np.fmax.reduce(padded.reshape(2, len(rows), -1, each), axis=3)
        shown = [*map(visible, tokens[::each])]
        found = {"tokens": shown, "each": each, "rows": [*map(visible, rows)]}
        found["norm"] = encode_map(norms, NORM_DECADES)
        if comparison is not None:
            found["drift"] = encode_map(drifts, DRIFT_DECADES)
        maps.append(found)
    return maps


def _layers(golden: Run) -> dict[str, str]:
    """Return for each layer the module whose output stands for it: the last one to end."""
    layers: dict[str, str] = {}
    for path in golden.paths:
        found = _LAYER.match(path)
        if found is not None:
            layers[found[1]] = path
        elif path != ROOT and not any(other.startswith(f"{path}.") for other in golden.paths):
            layers[path] = path
    return layers


def _row(
    golden: Run, path: str, values: Mapping[tuple[int, str], Distance]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the tokens of the first floating outputs of a module, and their numbers.

    The numbers are ``[norms and drifts, tokens]``. Later visits follow the first.
    """
    tokens: list[str] = []
    numbers: list[np.ndarray] = []
    for position, call in enumerate(golden.calls):
        outputs = (x for x in call.leaves if not is_input(x) and x.summary.norms)
        leaf = next(outputs, None) if call.path == path else None
        if leaf is None:
            continue
        norms = read_norms(leaf.summary.norms)
        if len(norms) == token_count(leaf.summary.shape):
            tokens += token_names(golden, call, leaf.summary.shape)
            drifts = _token_drifts(values.get((position, leaf.at)), len(norms))
            numbers.append(np.stack([norms, drifts]))
    return tuple(tokens), np.concatenate(numbers, axis=1) if numbers else np.empty((2, 0))


def _token_drifts(distance: Distance | None, tokens: int) -> np.ndarray:
    """Return the drift of each token, NaN where it was not compared."""
    if distance is None:
        return np.full(tokens, np.nan)
    each = distance.per_token
    return each if each is not None and len(each) == tokens else np.full(tokens, distance.rms)


def encode_map(numbers: np.ndarray, decades: tuple[float, float]) -> str:
    """Encode numbers as base64, one byte for each.

    0 is zero and 255 is NaN. Any other byte ``b`` is ``10 ** (low + (b - 1) / 253 * (high - low))``
    where ``decades`` is ``(low, high)``.
    """
    low, high = decades
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (np.log10(numbers) - low) / (high - low)
    found = 1 + np.round(np.clip(share, 0.0, 1.0) * 253)
    found[numbers == 0] = 0
    found[np.isnan(share)] = 255
    return base64.b64encode(found.astype(np.uint8).tobytes()).decode("ascii")
