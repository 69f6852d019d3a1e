"""A pytest plugin that changes one weight of each model, and writes down which."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_nnsight import nnsight_api

FOLDER = "PLANTED_WEIGHTS"
"""The environment variable that names the folder to write to."""


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Iterator[None]:
    """Change the model before any test and the guard see it."""
    model = yield
    if fixturedef.argname == "nnsight_model":
        name = request.param[0].name
        parameter = change_one_weight(nnsight_api.torch_module(model), name)
        Path(os.environ[FOLDER], f"{name}.json").write_text(json.dumps(parameter))
    return model


def change_one_weight(module: Any, name: str) -> str:
    """Change one number in a linear layer, chosen by the model's name; return the parameter."""
    linear = [
        path
        for path, part in module.named_modules()
        if isinstance(part, torch.nn.Linear)
        and part is not module.get_output_embeddings()
        and not any(word in path for word in ("pooler", "indexer", "experts"))
    ]
    path = linear[zlib.crc32(name.encode()) % len(linear)]
    weight = module.get_submodule(path).weight
    weight.data[weight.shape[0] // 2, weight.shape[1] // 2] += 0.25
    return f"{path}.weight"
