"""The record of the model and the machine in a golden."""

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
    """Weights on meta and integers stand for offloaded and quantised weights."""
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


def test_modules_are_counted_by_their_own_settings() -> None:
    """An epsilon or a dropout shows though no config names it."""
    module = torch.nn.Sequential(*(torch.nn.LayerNorm(4, eps=eps) for eps in (1e-5, 1e-5, 1e-6)))
    module.eval()
    module[0].train()
    assert identify(wrapped(module), None)[0].modules["LayerNorm"] == {
        "(4,), eps=1e-05, elementwise_affine=True, bias=True (training)": 1,
        "(4,), eps=1e-05, elementwise_affine=True, bias=True": 1,
        "(4,), eps=1e-06, elementwise_affine=True, bias=True": 1,
    }


def test_what_a_checkpoint_sets_for_generating_is_kept() -> None:
    module, _ = tiny.build("gpt2", torch.float32, None)
    assert "top_k" not in identify(wrapped(module), None)[0].generation
    generation: Any = module.generation_config
    generation.top_k, generation.access_token = 7, "secret"
    record = identify(wrapped(module), None)[0]
    assert record.generation["top_k"] == 7
    assert "secret" not in json.dumps(dict(record.generation))


def test_what_chooses_kernels_is_kept_where_it_is_not_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def kernels() -> str:
        return identify(wrapped(torch.nn.ReLU()), None)[1].kernels

    monkeypatch.delenv("MKL_CBWR", raising=False)
    before = kernels()
    assert "MKL_CBWR" not in before
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    assert "MKL_CBWR=AVX2" in kernels()
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert "matmul high" in kernels()
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert "deterministic" in kernels()
