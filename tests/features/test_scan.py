"""Scans: goldens of structure and shapes, without weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_nnsight import nnsight_api
from pytest_nnsight.run import Call, Leaf, Run, Summary

CITY = "The Eiffel Tower is in the city of"
LARGE = f"llama-70b={Path(__file__).parent / 'configs' / 'llama-70b'}"


def without_numbers(run: Run) -> list[Call]:
    """Return the calls of a run without numbers; a shared summary is still shared."""
    outlines: dict[int, Summary] = {}

    def leaf_without_numbers(leaf: Leaf) -> Leaf:
        summary = leaf.summary
        outline = Summary(summary.shape, summary.dtype)
        return Leaf(leaf.at, outlines.setdefault(id(summary), outline))

    return [
        call._replace(leaves=tuple(map(leaf_without_numbers, call.leaves))) for call in run.calls
    ]


def tensor_numbers(calls: Any) -> list[list[int]]:
    """Number the tensors of all calls by when each was first seen."""
    order: dict[int, int] = {}
    return [
        [order.setdefault(id(leaf.summary), len(order)) for leaf in call.leaves] for call in calls
    ]


@pytest.mark.feature(
    "scan", "shapes and structure of a model of 70 billion parameters, without weights"
)
@pytest.mark.nnsight(model=LARGE, device_map="meta")
def test_scan_of_a_large_config(
    nnsight_model: Any, nnsight_capture: Any, nnsight_golden: Any
) -> None:
    before = peak_bytes()
    ids = [128000, 791, 469, 3168, 301, 22703]
    modules = ["model.embed_tokens", "model.layers.*", "model.layers.79.**", "lm_head"]
    run = nnsight_capture.scan(ids, modules=modules)
    module = nnsight_api.torch_module(nnsight_model)
    assert sum(parameter.numel() for parameter in module.parameters()) == 70_553_706_496
    assert all(parameter.is_meta for parameter in module.parameters())
    assert peak_bytes() - before < 200e6
    assert run == nnsight_golden


def peak_bytes() -> int:
    """Return the peak memory of this process."""
    resource = pytest.importorskip("resource")
    factor = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * factor


@pytest.mark.feature("scan", "a built-in without weights")
@pytest.mark.nnsight(model="tiny:gpt2", device_map="meta")
def test_scan_of_gpt2(nnsight_capture: Any, nnsight_golden: Any) -> None:
    assert nnsight_capture.scan(CITY) == nnsight_golden


@pytest.mark.feature("scan", "an encoder-decoder without weights")
@pytest.mark.nnsight(model="tiny:t5", device_map="meta")
def test_scan_of_t5(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.scan(CITY, modules=["encoder.block.*", "decoder.block.*", "lm_head"])
    assert run == nnsight_golden


@pytest.mark.feature("scan", "a loaded model, with the same structure as its trace")
@pytest.mark.nnsight(attn="eager")
def test_scan_of_the_trained_model(nnsight_capture: Any, nnsight_golden: Any) -> None:
    scan, trace = nnsight_capture.scan(CITY), nnsight_capture.trace(CITY)
    assert list(scan.calls) == without_numbers(trace)
    assert tensor_numbers(scan.calls) == tensor_numbers(trace.calls)
    assert scan.prompt.token_ids == trace.prompt.token_ids
    few = ["model.embed_tokens", "model.layers.*", "lm_head"]
    assert nnsight_capture.scan(CITY, modules=few) == nnsight_golden


@pytest.mark.feature("scan", "with sdpa, where transformers makes a mask that a trace lacks")
def test_scan_with_sdpa(nnsight_capture: Any, nnsight_golden: Any) -> None:
    scan, trace = nnsight_capture.scan(CITY), nnsight_capture.trace(CITY)
    assert scan.prompt.token_ids == trace.prompt.token_ids
    assert [call.key for call in scan.calls] == [call.key for call in trace.calls]
    mask = "attention_mask=tensor"
    differ = {
        new.module_class
        for old, new in zip(without_numbers(trace), scan.calls, strict=True)
        if old != new and (old.inputs or "").replace("attention_mask=None", mask) == new.inputs
    }
    assert differ == {"LlamaDecoderLayer", "LlamaAttention"}
    assert nnsight_capture.scan(CITY, modules="model.layers.0.**") == nnsight_golden


@pytest.mark.feature("scan", "an intervention that changes a shape")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_scan_with_an_intervention(nnsight_capture: Any, nnsight_golden: Any) -> None:
    def last_token(model: Any) -> None:
        model.lm_head.input = model.lm_head.input[:, -1:]

    run = nnsight_capture.scan(CITY, modules=["transformer.ln_f", "lm_head"], intervene=last_token)
    assert run["lm_head"].call.leaves[-1].summary.shape == (1, 1, 264)
    assert run == nnsight_golden
