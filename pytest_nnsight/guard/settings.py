"""Settings that change what a model computes: edits, configs, tokenizer, torch's own, seeds."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.leak import Leak, listed, snapshot

_TOKENIZER_SETTINGS = ("padding_side", "truncation_side", "pad_token", "eos_token", "chat_template")
# The name of a switch, how to read it, how to set it.
_SWITCHES: tuple[tuple[str, Callable[[], Any], Callable[[Any], Any]], ...] = (
    ("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    ("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("default device", torch.get_default_device, torch.set_default_device),
    ("number of threads", torch.get_num_threads, torch.set_num_threads),
    (
        "float32 matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    (
        "deterministic algorithms",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    ("anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
)


@snapshot
def snapshot_edits(model: Any) -> Iterator[Leak | None]:
    """Remember the persistent edits (``model.edit(inplace=True)``) of a model."""
    before = nnsight_api.edits(model)
    yield None
    now = nnsight_api.edits(model)
    if [*map(id, now)] == [*map(id, before)]:
        return
    nnsight_api.set_edits(model, before)
    if (added := len(now) - len(before)) > 0:
        yield Leak(f"{added} persistent edit(s), cleared")
    else:
        yield Leak("persistent edits gone or replaced, restored")


@snapshot
def snapshot_configs(model: Any) -> Iterator[Leak | None]:
    """Remember the config and the generation config of a model."""
    module = nnsight_api.torch_module(model)
    named = {name: getattr(module, name, None) for name in ("config", "generation_config")}
    configs = {name: config for name, config in named.items() if hasattr(config, "to_dict")}
    before = {name: (_plain(it), copy.deepcopy(vars(it))) for name, it in configs.items()}
    yield None
    for name, config in configs.items():
        (plain, values), now = before[name], _plain(config)
        if now == plain and getattr(module, name, None) is config:
            continue
        keys = sorted(key for key in {*plain, *now} if plain.get(key) != now.get(key))
        vars(config).clear()
        vars(config).update(values)
        setattr(module, name, config)
        yield Leak(f"{name.replace('_', ' ')} {listed(keys) or 'replaced'}, restored")


def _plain(config: Any) -> dict[str, Any]:
    attention = getattr(config, "_attn_implementation", None)  # not part of the dict
    return {**config.to_dict(), "attention implementation": attention}


@snapshot
def snapshot_switches(model: Any) -> Iterator[Leak | None]:
    """Remember torch's settings, and those of the tokenizer that decide the token ids of a text."""
    before = [read() for _, read, _ in _SWITCHES]
    tokenizer = getattr(model, "tokenizer", None)
    settings = {n: getattr(tokenizer, n) for n in _TOKENIZER_SETTINGS if hasattr(tokenizer, n)}
    yield None
    for name, value in settings.items():
        if (now := getattr(tokenizer, name)) != value:
            setattr(tokenizer, name, value)
            values = ", restored" if name == "chat_template" else f" {now!r}, back to {value!r}"
            yield Leak(f"tokenizer {name.replace('_', ' ')}{values}")
    for (name, read, write), value in zip(_SWITCHES, before, strict=True):
        if (now := read()) != value:
            write(value)
            yield Leak(f"torch's {name} {now}, back to {value}")


@snapshot
def snapshot_random_state(model: Any) -> Iterator[Leak | None]:
    """Remember the states of random generators; drawing numbers is not a leak."""
    states: list[tuple[Callable[[Any], object], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
        (torch.set_rng_state, torch.get_rng_state()),
    ]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    yield None
    for write, state in states:
        write(state)
