"""What a golden says about a model and the machine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_nnsight.models import tiny
from pytest_nnsight.models.identity import identify, plain_config
from pytest_nnsight.models.spec import parse_spec


def wrapped(module: torch.nn.Module) -> Any:
    """Stand in for an nnsight model, of which `identify` needs the torch module alone."""
    return SimpleNamespace(_module=module)


def test_offloaded_and_quantised_weights_do_not_decide_the_variant() -> None:
    """Weights on meta and integers stand for what accelerate and quantisers leave behind."""
    module = torch.nn.Module()
    module.offloaded = torch.nn.Parameter(torch.zeros(2, device="meta", dtype=torch.bfloat16))
    module.packed = torch.nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    module.weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    assert identify(wrapped(module), None)[1].variant == "cpu-bfloat16"
    assert identify(wrapped(torch.nn.ReLU()), None)[1].variant == "cpu-none"


def test_no_secret_path_or_infinity_reaches_a_golden() -> None:
    module, _ = tiny.build("gpt2", torch.float32, None)
    config: Any = module.config
    config.hub_token = "hf_secret"
    config.weights_at = str(Path.home() / "models")
    config.limit = float("inf")
    text = json.dumps(plain_config(config), allow_nan=False)
    assert "hf_secret" not in text
    assert str(Path.home()) not in text
    assert json.loads(text)["bos_token_id"] == 1
    assert json.loads(text)["limit"] == "inf"


def test_a_record_names_class_spec_and_versions() -> None:
    module, _ = tiny.build("gpt2", torch.float32, None)
    record, environment = identify(wrapped(module), parse_spec("mine=tiny:gpt2"))
    assert (record.spec, record.model_class) == ("tiny:gpt2", "GPT2LMHeadModel")
    assert record.parameters == 149_760
    assert environment.attention == "sdpa"
    assert {"torch", "transformers", "nnsight", "python"} <= set(environment.versions)
    with pytest.raises(AttributeError):
        environment.device = "cuda"  # type: ignore[misc]
