"""Make maps of token by layer: the drift and the norm of each token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_nnsight.compare.comparison import Comparison
from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.pairing import is_input
from pytest_nnsight.errors import visible
from pytest_nnsight.report.number_format import DRIFT_DECADES, NORM_DECADES, encode_map
from pytest_nnsight.report.tokens import token_names
from pytest_nnsight.run import ROOT, Leaf, Run, token_count
from pytest_nnsight.summary.packing import read_norms

MOST_ROWS, MOST_TOKENS = 128, 256
_LAYER = re.compile(r"^(\D*\.\d+)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class _LayerRow:
    """Hold the norms and drifts of a layer's tokens; later visits follow the first."""

    label: str
    tokens: tuple[str, ...]
    norms: np.ndarray
    drift: np.ndarray


def token_maps(golden: Run, comparison: Comparison | None = None) -> list[dict[str, Any]]:
    """Return maps as JSON, one for each set of layers that see the same tokens.

    A layer is a block of the model, or a module outside of all blocks. Where there are more tokens
    than the page shows, a cell stands for several neighbours and holds the largest number.
    """
    maps: dict[tuple[str, ...], list[_LayerRow]] = {}
    values = comparison.values if comparison is not None else {}
    for label, path in list(_layers(golden).items())[:MOST_ROWS]:
        row = _row(golden, label, path, values)
        if row is not None:
            maps.setdefault(row.tokens, []).append(row)
    return [_map_json(tokens, rows, comparison is not None) for tokens, rows in maps.items()]


def _map_json(tokens: Sequence[str], rows: Sequence[_LayerRow], with_drift: bool) -> dict[str, Any]:
    each = -(-len(tokens) // MOST_TOKENS)
    shown = [visible(tokens[i]) for i in range(0, len(tokens), each)]
    norms = encode_map(np.stack([_pool(row.norms, each) for row in rows]), NORM_DECADES)
    drift = encode_map(np.stack([_pool(row.drift, each) for row in rows]), DRIFT_DECADES)
    found = {"tokens": shown, "each": each, "rows": [row.label for row in rows], "norm": norms}
    return {**found, "drift": drift} if with_drift else found


def _pool(numbers: np.ndarray, each: int) -> np.ndarray:
    """Return the largest number of each group of ``each`` neighbours."""
    padded = np.pad(numbers, (0, -len(numbers) % each), constant_values=np.nan)
    largest: np.ndarray = np.fmax.reduce(padded.reshape(-1, each), axis=1)
    return largest


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
    golden: Run, label: str, path: str, values: Mapping[tuple[int, str], Distance]
) -> _LayerRow | None:
    names: list[str] = []
    norms: list[np.ndarray] = []
    drift: list[np.ndarray] = []
    for position, leaf in _outputs(golden, path):
        summary = leaf.summary
        found = read_norms(summary.norms)
        if len(found) != token_count(summary.shape):
            continue
        names += token_names(golden, golden.calls[position], summary.shape)
        norms.append(found)
        drift.append(_token_drifts(values.get((position, leaf.at)), len(found)))
    if not names:
        return None
    return _LayerRow(visible(label), tuple(names), np.concatenate(norms), np.concatenate(drift))


def _outputs(golden: Run, path: str) -> Iterator[tuple[int, Leaf]]:
    """Yield the first floating output of every call of a module."""
    for position, call in enumerate(golden.calls):
        if call.path == path:
            outputs = (x for x in call.leaves if not is_input(x) and x.summary.norms)
            leaf = next(outputs, None)
            if leaf is not None:
                yield position, leaf


def _token_drifts(distance: Distance | None, tokens: int) -> np.ndarray:
    """Return the drift of each token, NaN where it was not compared."""
    if distance is None:
        return np.full(tokens, np.nan)
    if distance.per_token is not None and len(distance.per_token) == tokens:
        return distance.per_token
    return np.full(tokens, distance.rms)
