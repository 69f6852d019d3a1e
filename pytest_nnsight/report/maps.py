"""Two runs -> maps of token by layer: the drift of each token, and its norm."""

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
from pytest_nnsight.report.number_format import DRIFT_DECADES, NORM_DECADES, map_bytes
from pytest_nnsight.report.tokens import token_names
from pytest_nnsight.run import ROOT, Leaf, Run, token_count
from pytest_nnsight.summary.packing import read_norms

MOST_ROWS, MOST_TOKENS = 128, 256
_LAYER = re.compile(r"^(\D*\.\d+)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class _Row:
    """One layer: the norms and drifts of its tokens, those of later visits behind the first."""

    label: str
    tokens: tuple[str, ...]
    norms: np.ndarray
    drift: np.ndarray


def token_maps(golden: Run, comparison: Comparison | None = None) -> list[dict[str, Any]]:
    """Return maps, as JSON: one for each set of layers that see the same tokens.

    A layer is a block of the model, else a module outside of any; where a map has more tokens than
    a page shows, neighbours stand together with the largest of them.
    """
    maps: dict[tuple[str, ...], list[_Row]] = {}
    values = comparison.values if comparison is not None else {}
    for label, path in list(_layers(golden).items())[:MOST_ROWS]:
        row = _row(golden, label, path, values)
        if row is not None:
            maps.setdefault(row.tokens, []).append(row)
    return [_plain(tokens, rows, comparison is not None) for tokens, rows in maps.items()]


def _plain(tokens: Sequence[str], rows: Sequence[_Row], with_drift: bool) -> dict[str, Any]:
    each = -(-len(tokens) // MOST_TOKENS)
    shown = [visible(tokens[i]) for i in range(0, len(tokens), each)]
    found: dict[str, Any] = {"tokens": shown, "each": each, "rows": [row.label for row in rows]}
    norms = np.stack([_pooled(row.norms, each) for row in rows])
    found["norm"] = map_bytes(norms, NORM_DECADES)
    if with_drift:
        drift = np.stack([_pooled(row.drift, each) for row in rows])
        found["drift"] = map_bytes(drift, DRIFT_DECADES)
    return found


def _pooled(numbers: np.ndarray, each: int) -> np.ndarray:
    """Return the largest of each ``each`` numbers in a row."""
    padded = np.pad(numbers, (0, -len(numbers) % each), constant_values=np.nan)
    largest: np.ndarray = np.fmax.reduce(padded.reshape(-1, each), axis=1)
    return largest


def _layers(golden: Run) -> dict[str, str]:
    """Return for each layer the path of the module that shows it: its own, else its last one."""
    layers: dict[str, str] = {}
    for path in golden.paths:
        if path == ROOT:
            continue
        found = _LAYER.match(path)
        if found is None and any(other.startswith(f"{path}.") for other in golden.paths):
            continue  # what holds layers is not one itself
        layers[found[1] if found is not None else path] = path
    return layers


def _row(
    golden: Run, label: str, path: str, values: Mapping[tuple[int, str], Distance]
) -> _Row | None:
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
        drift.append(_of_tokens(values.get((position, leaf.at)), len(found)))
    if not names:
        return None
    return _Row(visible(label), tuple(names), np.concatenate(norms), np.concatenate(drift))


def _outputs(golden: Run, path: str) -> Iterator[tuple[int, Leaf]]:
    """Yield the first floating output of every call of a module."""
    for position, call in enumerate(golden.calls):
        if call.path == path:
            outputs = (x for x in call.leaves if not is_input(x) and x.summary.norms)
            leaf = next(outputs, None)
            if leaf is not None:
                yield position, leaf


def _of_tokens(distance: Distance | None, tokens: int) -> np.ndarray:
    """Return the drift of each token; NaN where it was not compared."""
    if distance is None:
        return np.full(tokens, np.nan)
    if distance.per_token is not None and len(distance.per_token) == tokens:
        return distance.per_token
    return np.full(tokens, distance.rms)
