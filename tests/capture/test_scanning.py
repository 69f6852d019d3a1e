"""Scans: a changed architecture is found without weights; only a scan works without them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers.models.llama import modeling_llama

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import diagnose
from pytest_nnsight.errors import UsageError
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.loading import load
from pytest_nnsight.models.spec import LoadOptions, parse_spec
from pytest_nnsight.run import Run

IDS = [1, 2, 3]
FIRST = Version("5.3")  # of transformers, that computes on the meta device
pytestmark = pytest.mark.skipif(
    Version(transformers.__version__) < FIRST, reason="transformers needs more than shapes"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 264,
    "max_position_embeddings": 512,
}


def of_config(folder: Path, dtype: str = "auto", **changes: Any) -> Capture:
    """Return the helper of a model without weights, from a folder with a config alone."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    spec = parse_spec(f"small={folder}")
    model = load(spec, LoadOptions(device_map="meta", dtype=dtype), lambda text: None)
    return Capture(model, lambda: identify(model, spec))


def verdict(golden: Run, received: Run) -> tuple[str, str, str]:
    """Return the kind of the first difference, where it is, and its cause."""
    comparison = compare(golden, received)
    assert not comparison.matches
    found = diagnose(golden, received, comparison)
    return found.start.kind, found.start.label, f"{found.cause}: {found.evidence}"


def test_it_is_kept_without_numbers(tmp_path: Path) -> None:
    run = of_config(tmp_path).scan(IDS)
    text = encode(run)
    assert decode(text, "golden") == run
    assert json.loads(text)["kind"] == "scan"
    assert run.environment.device == "meta"
    assert run.prompt.token_ids == ((1, 2, 3),)
    tensors = [tensor for call in json.loads(text)["calls"] for tensor in call["tensors"]]
    known = {"at", "shape", "dtype", "same"}
    assert {key for tensor in tensors for key in tensor} == known


def test_a_changed_number_in_the_config_that_changes_no_shape_is_no_drift(tmp_path: Path) -> None:
    golden = of_config(tmp_path).scan(IDS)
    assert compare(golden, of_config(tmp_path, rms_norm_eps=1e-3).scan(IDS)).matches


def test_another_layer(tmp_path: Path) -> None:
    golden = of_config(tmp_path).scan(IDS)
    found = verdict(golden, of_config(tmp_path, num_hidden_layers=3).scan(IDS))
    assert found == ("added", "model.layers.2", "config: num_hidden_layers 2 -> 3")


def test_another_hidden_size(tmp_path: Path) -> None:
    golden = of_config(tmp_path).scan(IDS)
    found = verdict(golden, of_config(tmp_path, hidden_size=128).scan(IDS))
    assert found == ("shape", "model.embed_tokens", "config: hidden_size 64 -> 128")


def test_fewer_heads_for_keys(tmp_path: Path) -> None:
    golden = of_config(tmp_path).scan(IDS)
    found = verdict(golden, of_config(tmp_path, num_key_value_heads=1).scan(IDS))
    where = "model.layers.0.self_attn.k_proj"
    assert found == ("shape", where, "config: num_key_value_heads 2 -> 1")


def test_another_dtype(tmp_path: Path) -> None:
    golden = of_config(tmp_path).scan(IDS)
    found = verdict(golden, of_config(tmp_path, dtype="bfloat16").scan(IDS))
    where = "model.embed_tokens"
    assert found == ("dtype", where, "structure: dtype float32 -> bfloat16")


def test_another_dtype_of_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = of_config(tmp_path).scan(IDS)
    forward = modeling_llama.LlamaMLP.forward

    def cast(self: Any, hidden_states: Any) -> Any:
        wide = hidden_states.to(self.up_proj.weight.dtype)
        return forward(self, wide).to(hidden_states.dtype)

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", cast)
    other = of_config(tmp_path)
    nnsight_api.torch_module(other.model).get_submodule("model.layers.1.mlp").to(torch.float64)
    where = "model.layers.1.mlp.gate_proj"
    kind, label, cause = verdict(golden, other.scan(IDS))
    assert (kind, label.partition(" ")[0]) == ("dtype", where)
    assert cause == "structure: same config and versions"


def test_another_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = of_config(tmp_path).scan(IDS)
    layer, norm = modeling_llama.LlamaDecoderLayer, modeling_llama.LlamaRMSNorm
    layer_forward, norm_forward = layer.forward, norm.forward

    def bare(value: Any) -> Any:
        return value[0] if isinstance(value, tuple) else value

    def of_layer(self: Any, hidden_states: Any, *rest: Any, **more: Any) -> Any:
        return (layer_forward(self, bare(hidden_states), *rest, **more),)

    monkeypatch.setattr(layer, "forward", of_layer)
    monkeypatch.setattr(norm, "forward", lambda self, value: norm_forward(self, bare(value)))
    found = verdict(golden, of_config(tmp_path).scan(IDS))
    assert found == ("container", "model.layers.0", "structure: same config and versions")


def test_a_trace_is_no_scan(gpt2: Capture) -> None:
    found = verdict(gpt2.scan("Hello"), gpt2.trace("Hello"))
    assert found[:2] == ("kind", "run")


def test_a_model_without_weights_is_not_traced(tmp_path: Path) -> None:
    capture = of_config(tmp_path)
    line = r"the model has no weights \(--nnsight-device-map meta\): nnsight_capture.scan takes"
    with pytest.raises(UsageError, match=line):
        capture.trace(IDS)
    with pytest.raises(UsageError, match=line):
        capture.generate(IDS)


def test_text_needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="tokenizer"):
        of_config(tmp_path).scan("Hello")


def test_a_gguf_file_has_no_config(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    spec = parse_spec(str(tmp_path / "model.gguf"))
    with pytest.raises(UsageError, match=r"a \.gguf file has no config to build from"):
        load(spec, LoadOptions(device_map="meta"), lambda text: None)


@pytest.mark.skipif(
    nnsight_api.version() < (0, 8), reason="nnsight 0.7 and before take one side of the question"
)
def test_a_model_that_needs_numbers_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = modeling_llama.LlamaMLP.forward

    def look(self: Any, hidden_states: Any) -> Any:
        return forward(self, hidden_states) if hidden_states.sum() > 0 else hidden_states

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", look)
    line = r"cannot scan LlamaForCausalLM: transformers [\d.]+ needs more than shapes for it \("
    with pytest.raises(UsageError, match=line):
        of_config(tmp_path).scan(IDS)


def test_the_model_computes_as_before(gpt2: Capture) -> None:
    before = gpt2.trace("Hello")
    gpt2.scan("Hello")
    assert gpt2.trace("Hello").calls == before.calls
