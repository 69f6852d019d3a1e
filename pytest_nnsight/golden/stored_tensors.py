"""Whole tensors next to a golden, for exact distances: ``test.json`` and ``test.safetensors``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pytest_nnsight.compare.distance import Distance, true_distance
from pytest_nnsight.errors import GoldenError
from pytest_nnsight.golden.storage import write_atomically

Tensors = Mapping[str, np.ndarray]
"""Tensors as ``[tokens, values]`` in float32 or float64, by the label that a drift has."""

_GOLDEN_DIGEST = "golden"  # the key of the metadata that ties the file to the text of its golden


def tensors_path(golden: Path) -> Path:
    """Return the file of a golden's tensors."""
    return golden.with_suffix(".safetensors")


def write_tensors(golden: Path, text: str, tensors: Tensors) -> None:
    """Write the tensors of a golden whose text is ``text``, whole or not at all."""
    from safetensors.numpy import save

    arrays = {label: np.ascontiguousarray(array) for label, array in tensors.items()}
    write_atomically(tensors_path(golden), save(arrays, {_GOLDEN_DIGEST: _digest(text)}))


def exact_distances(golden: Path, text: str, tensors: Tensors) -> dict[str, Distance]:
    """Return the exact distances between the stored tensors and ``tensors``, by label.

    Return nothing if no tensors are stored. Raise `GoldenError` if the file is damaged or belongs
    to an earlier text of the golden.
    """
    path = tensors_path(golden)
    if not tensors or not path.is_file():
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get(_GOLDEN_DIGEST) != _digest(text):
                raise GoldenError(f"{path.name} is of an earlier golden")
            shared = [label for label in file.keys() if label in tensors]  # noqa: SIM118
            shapes = {label: tuple(file.get_slice(label).get_shape()) for label in shared}
            same_shape = [label for label in shared if shapes[label] == tensors[label].shape]
            stored = {label: file.get_tensor(label) for label in same_shape}
    except (SafetensorError, OSError) as error:
        raise GoldenError(f"{path.name} is damaged ({error!s:.80})") from error
    return {label: true_distance(array, tensors[label]) for label, array in stored.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
