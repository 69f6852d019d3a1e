"""Build records for tests: runs of a small model, without running any model."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.distance import Distance, distances
from pytest_nnsight.diagnose.diagnosis import Diagnosis, diagnose
from pytest_nnsight.diagnose.origin import DriftOrigin, locate
from pytest_nnsight.run import (
    ROOT,
    Call,
    Environment,
    Generated,
    Leaf,
    ModelRecord,
    Prompt,
    Run,
    Summary,
)
from pytest_nnsight.summary.summarizer import summarize as summaries_of

VERSIONS = {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.2.0", "nnsight": "0.8.1"}
CONFIG = {"hidden_size": 64, "model_type": "gpt2", "rope": {"theta": 1e4, "kind": "default"}}
NEWER = {"versions": {**VERSIONS, "transformers": "5.23.0"}}
OTHER_THREADS = {"threads": 8}
"""A change of the environment after which bits need not be equal."""


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return standard normal numbers that depend only on shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def summarize(tensor: torch.Tensor) -> Summary:
    """Summarise one tensor as a capture would."""
    return summaries_of([tensor])[0]


def summarize_all(tensors: Sequence[torch.Tensor]) -> list[Summary]:
    """Summarise many tensors together, as a capture would."""
    return summaries_of(tensors)


def distance(golden: Summary, received: Summary) -> Distance:
    """Estimate the distance of two summarised tensors of one shape."""
    return distances([(golden, received)])[0]


def make_summary(noise: float = 0.0, shape: tuple[int, ...] = (1, 7, 64), seed: int = 0) -> Summary:
    """Summarise normal numbers plus relative ``noise``."""
    return summarize(normal(*shape, seed=seed) + noise * normal(*shape, seed=seed + 1000))


def make_call(path: str = "h.0", summary: Summary | None = None, **changes: Any) -> Call:
    """Return a call with one output tensor."""
    call = Call(path, 0, "Block", "tensor", (Leaf("out", summary or make_summary()),))
    return call._replace(**changes)


def make_environment(**changes: Any) -> Environment:
    """Return the environment of a float32 run on a CPU."""
    return replace(Environment(VERSIONS, "cpu", "float32", "sdpa", 2, "x86_64 AVX2"), **changes)


def make_model(**changes: Any) -> ModelRecord:
    """Return a model with a fingerprint of its weights."""
    return replace(ModelRecord("tiny:gpt2", "GPT2", CONFIG, None, "aaaa", 3), **changes)


def make_run(
    *calls: Call,
    model: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Run:
    """Return a trace of ``calls`` (default: one); ``model`` and ``environment`` hold changes."""
    run = Run(
        kind="trace",
        model=make_model(**(model or {})),
        environment=make_environment(**(environment or {})),
        prompt=Prompt("Hello", ((1, 2, 3),)),
        generated=None,
        calls=calls or (make_call(),),
    )
    return replace(run, **changes)


def make_generation(*token_ids: int, margin: float = 0.0, **changes: Any) -> Run:
    """Return a greedy ``generate`` run; all tokens have the same logit ``margin``."""
    generated = Generated(
        (token_ids,),
        ("x" * len(token_ids),),
        (np.full(len(token_ids), margin, "<f4").tobytes(),),
        (tuple(f" {token}" for token in token_ids),),
    )
    prompt = Prompt("Hello", ((1, 2, 3),), generation={"do_sample": False})
    return make_run(**{"kind": "generate", "generated": generated, "prompt": prompt, **changes})


def make_rich_run() -> Run:
    """Return a run that uses every field of a golden."""
    shared = make_summary()
    ids = summarize(torch.arange(7)[None])
    broken = torch.tensor([1.0, float("nan"), float("inf")])
    noisy = make_summary(shape=(1, 100, 8))._replace(noise=1e-6)
    calls = (
        make_call("h.0.mlp", shared),
        make_call("h.0", leaves=(Leaf("in.0", ids), Leaf("out", shared)), inputs="{0=tensor}"),
        make_call("h.0", visit=1, output="(tensor, None)", leaves=(Leaf("out[0]", shared),)),
        make_call("head", leaves=(Leaf("out", summarize(broken)), Leaf("out.b", noisy))),
        make_call("cache", output="None", leaves=()),
    )
    prompt = Prompt(
        text="H\u00e9",
        token_ids=((1, 2), (3,)),
        pieces=(("H", "\u00e9"), ("x",)),
        tensors={"attention_mask": ((1, 1), (0, 1)), "position_ids": ((0, 1), (1, 0))},
        digests={"pixel_values": "float32 [2, 3, 4, 4] 0123456789abcdef"},
        is_batch=True,
        generation={"max_new_tokens": 2, "seed": 0, "do_sample": False},
        intervention="zero_mlp",
        intervention_code="0123456789abcdef",
    )
    model = {
        "revision": "main",
        "modules": {"Norm": {"(64,), eps=1e-05": 5, "": 1}},
        "generation": {"top_k": 50},
    }
    environment = {"kernels": "deterministic"}
    return make_generation(
        5,
        6,
        margin=0.5,
        calls=calls,
        prompt=prompt,
        model=model,
        environment=environment,
        calibration=("1 thread", "eager"),
    )


def make_steps(count: int, noise: float = 0.0) -> tuple[Call, ...]:
    """Return the calls of ``count`` steps of a model that has only a head."""
    return tuple(
        make_call("lm_head", make_summary(noise, (1, 1, 64), seed=step), visit=step)
        for step in range(count)
    )


def make_greedy(*token_ids: int, noise: float = 0.0, margin: float = 0.5, **changes: Any) -> Run:
    """Return a generation whose logits drift by ``noise`` at every step."""
    calls = make_steps(len(token_ids), noise)
    return make_generation(*token_ids, margin=margin, **{"calls": calls, **changes})


Drift = Callable[[int, str], float]
"""How much a value drifts, from its index in time and its label (`path`, or `path at`)."""


def no_drift(time: int, label: str) -> float:
    """Return no drift for any value."""
    return 0.0


def drift_from(start: str, size: float = 1e-2, noise: float = 0.0) -> Drift:
    """Return a drift of ``size`` from the value ``start`` on, and of ``noise`` before it."""
    start_times: list[int] = []

    def drift(time: int, label: str) -> float:
        if label == start:
            start_times.append(time)
        return size if start_times and time >= start_times[-1] else noise

    return drift


@cache
def _value(seed: int, noise: float, shape: tuple[int, ...]) -> torch.Tensor:
    return normal(*shape, seed=seed) + noise * normal(*shape, seed=seed + 1)


@dataclass
class Forward:
    """Record the calls of a model with children, as a capture would.

    A tensor that goes from one module into the next is one `Summary`. A value is labelled by the
    location where it is first seen, and depends only on that label and on its ``drift``.
    """

    drift: Drift = no_drift
    visit: int = 0
    shape: tuple[int, ...] = (1, 7, 64)
    calls: list[Call] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)

    def new(self, path: str, at: str = "out") -> Summary:
        """Return a value that is first seen at this location."""
        name = path if self.visit == 0 else f"{path}#{self.visit}"
        label = name if at == "out" else f"{name} {at}"
        noise = self.drift(len(self.labels), label)
        self.labels.append(label)
        return summarize(_value(zlib.crc32(label.encode()), noise, self.shape))

    def close(
        self, path: str, module_class: str, inputs: Mapping[str, Summary], output: Summary
    ) -> Summary:
        """End a call; return its output."""
        leaves = [Leaf(at, summary) for at, summary in inputs.items()]
        at = "out.logits" if path == ROOT else "out"
        structure = "Output(logits=tensor)" if path == ROOT else "tensor"
        leaves.append(Leaf(at, output))
        self.calls.append(
            Call(path, self.visit, module_class, structure, tuple(leaves), "{0=tensor}")
        )
        return output

    def leaf(self, path: str, module_class: str, hidden: Summary) -> Summary:
        """Call a module without children."""
        return self.close(path, module_class, {"in.0": hidden}, self.new(path))

    def layer(self, path: str, hidden: Summary) -> Summary:
        """Call a decoder layer, whose own code adds to the residual stream."""
        normed = self.leaf(f"{path}.input_layernorm", "LlamaRMSNorm", hidden)
        self.leaf(f"{path}.self_attn.q_proj", "Linear", normed)
        mixed = self.new(f"{path}.self_attn.o_proj", "in.0")
        attended = self.leaf(f"{path}.self_attn.o_proj", "Linear", mixed)
        self.close(f"{path}.self_attn", "LlamaAttention", {"in.hidden_states": normed}, attended)
        middle = self.new(f"{path}.post_attention_layernorm", "in.0")
        normed = self.leaf(f"{path}.post_attention_layernorm", "LlamaRMSNorm", middle)
        gate = self.leaf(f"{path}.mlp.gate_proj", "Linear", normed)
        self.leaf(f"{path}.mlp.act_fn", "SiLU", gate)
        self.leaf(f"{path}.mlp.up_proj", "Linear", normed)
        product = self.new(f"{path}.mlp.down_proj", "in.0")
        down = self.leaf(f"{path}.mlp.down_proj", "Linear", product)
        self.close(f"{path}.mlp", "LlamaMLP", {"in.0": normed}, down)
        return self.close(path, "LlamaDecoderLayer", {"in.0": hidden}, self.new(path))


def make_forward(
    drift: Drift = no_drift,
    layers: int = 2,
    visit: int = 0,
    shape: tuple[int, ...] = (1, 7, 64),
) -> tuple[Call, ...]:
    """Return the calls of one forward pass of a small Llama."""
    forward = Forward(drift, visit, shape)
    ids = forward.new(ROOT, "in.input_ids")
    hidden = forward.leaf("model.embed_tokens", "Embedding", ids)
    for index in range(layers):
        hidden = forward.layer(f"model.layers.{index}", hidden)
    hidden = forward.leaf("model.norm", "LlamaRMSNorm", hidden)
    forward.close("model", "LlamaModel", {"in.input_ids": ids}, hidden)
    logits = forward.leaf("lm_head", "Linear", hidden)
    forward.close(ROOT, "LlamaForCausalLM", {"in.input_ids": ids}, logits)
    return tuple(forward.calls)


def make_pass(drift: Drift = no_drift, layers: int = 2, **changes: Any) -> Run:
    """Return a trace of one forward pass of a small Llama."""
    return make_run(*make_forward(drift, layers), **changes)


def drifted(start: str = "model.layers.0.mlp.up_proj", size: float = 1e-2, **changes: Any) -> Run:
    """Return a trace of a small Llama that drifts from one value on."""
    return make_pass(drift_from(start, size), **changes)


def origin_of(golden: Run, received: Run) -> DriftOrigin:
    """Compare two runs and find where the difference starts."""
    return locate(golden, received, compare(golden, received))


def find(golden: Run, received: Run, *weights: Mapping[str, str]) -> Diagnosis:
    """Compare two runs and diagnose the difference."""
    return diagnose(golden, received, compare(golden, received), *weights)


def why(golden: Run, received: Run, *weights: Mapping[str, str]) -> tuple[str, str, bool]:
    """Return cause, evidence, and whether it is certain."""
    found = find(golden, received, *weights)
    return found.cause, found.evidence, found.is_certain
