"""Two runs -> what differs between the models and machines that made them, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pytest_nnsight.run import Environment, Run

# Config keys that never change what a forward pass computes.
_IRRELEVANT = ("use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "tokenizer_class")
_START_KEYS = ("decoder_start_token_id", "bos_token_id")  # they choose a decoder's first token
_OFTEN_BLAMED = ("transformers", "torch", "nnsight")  # listed first
Fingerprints = Mapping[str, str]
"""The fingerprint of each parameter, by its name."""


def is_same_model(golden: Run, received: Run) -> bool:
    """Tell whether both runs are known to come from one model under one intervention.

    Weights that were not read are not known to be the same.
    """
    return (
        golden.model.weights is not None
        and golden.model.weights == received.model.weights
        and golden.prompt.intervention_code == received.prompt.intervention_code
        and not changed_config(golden, received)
        and not changed_modules(golden, received)
    )


def changed_config(golden: Run, received: Run) -> list[str]:
    """List the config keys whose values differ and may change what a forward pass computes."""
    return [
        text
        for text in changed_keys(golden.model.config, received.model.config)
        if text.split(" ")[0].rpartition(".")[2] not in _IRRELEVANT
    ]


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the keys whose values differ, ``key old -> new``, nested keys joined by dots.

    Keys that only one side has do not count: libraries add and drop keys freely.
    """
    changes = []
    if ("rope_theta" in before) != ("rope_theta" in now):
        before, now = _as_in_transformers_5(before), _as_in_transformers_5(now)
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new and key in before and key in now:
            changes.append(f"{prefix}{key} {_change(old, new)}")
    return changes


def _as_in_transformers_5(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert the rotary settings of a config of transformers 4 to the keys of transformers 5.

    Version 4 reads ``rope_theta`` and ``rope_scaling``. It keeps the ``rope_parameters`` of a
    folder that version 5 saved, without using them.
    """
    if "rope_theta" not in config:
        return config
    keys = [key for key in ("rope_theta", "partial_rotary_factor") if key in config]
    rotary = {**(config.get("rope_scaling") or {}), **{key: float(config[key]) for key in keys}}
    return {**config, "rope_parameters": {"rope_type": "default", **rotary}}


def _change(old: Any, new: Any) -> str:
    """Write ``old -> new``; numbers as short as the difference allows."""
    if isinstance(old, float) and isinstance(new, float) and f"{old:.6g}" != f"{new:.6g}":
        return f"{old:.6g} -> {new:.6g}"
    return f"{_brief(old)} -> {_brief(new)}"


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def changed_generation(golden: Run, received: Run) -> list[str]:
    """List the settings of the checkpoint's generation config whose values differ."""
    before, now = golden.model.generation, received.model.generation
    return [
        f"generation {key} {_brief(before.get(key))} -> {_brief(now.get(key))}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def changed_start_token(golden: Run, received: Run, first: tuple[int, int]) -> list[str]:
    """List the settings whose change explains that a decoder starts with another token.

    ``first`` are the first tokens of both runs. ``generate`` reads the generation config first, and
    then the model's config.
    """
    configs = [("", golden.model.config, received.model.config)]
    if golden.kind == "generate":
        configs.insert(0, ("generation ", golden.model.generation, received.model.generation))
    for prefix, before, now in configs:
        old, new = _start_tokens(before), _start_tokens(now)
        changes = [
            f"{prefix}{key} {_brief(old.get(key))} -> {_brief(new.get(key))}"
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
            and old.get(key, first[0]) == first[0]
            and new.get(key, first[1]) == first[1]
        ]
        if changes:
            return sorted(changes, key=lambda text: _START_KEYS[0] not in text)
    return []


def _start_tokens(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings that may choose a first token, also those of nested configs."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _start_tokens(value, f"{prefix}{key}.")
        elif key in _START_KEYS and value is not None:
            found[f"{prefix}{key}"] = value
    return found


def changed_modules(golden: Run, received: Run) -> dict[str, str]:
    """Say for each class how many modules have other settings, as torch prints them.

    ``{"LlamaRMSNorm": "61 of 61 LlamaRMSNorm: (576,), eps=1e-05 -> (576,), eps=1e-06"}``
    """
    changes = {}
    before, now = golden.model.modules, received.model.modules
    for name in sorted({*before} & {*now}):
        old, new = Counter(before[name]), Counter(now[name])
        gone, added = old - new, new - old
        if gone and added:
            count = f"{gone.total()} of {old.total()} {name}"
            changes[name] = f"{count}: {_brief(next(iter(gone)))} -> {_brief(next(iter(added)))}"
    return changes


def changed_weights(
    golden: Run, received: Run, before: Fingerprints | None, now: Fingerprints | None
) -> tuple[list[str], str]:
    """Return the names of the parameters that differ, if known, and a text about them.

    ``before`` and ``now`` are ``None`` if the fingerprints of single parameters are unknown.
    """
    if golden.model.weights and golden.model.weights == received.model.weights:
        return [], ""
    if not before or not now:
        old, new = golden.model.weights, received.model.weights
        return [], f"fingerprint {old} -> {new}" if old and new else ""
    differing = [name for name in now if name in before and before[name] != now[name]]
    gone, added = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    if differing:
        which = differing[0] if len(differing) == 1 else f"{differing[0]}, ..."
        return differing, f"{len(differing)} of {len(before)} parameters differ: {which}"
    if gone or added:
        text = f"{len(gone)} parameters gone, {len(added)} new: {(gone + added)[0]}"
        return gone + added, text
    return [], ""


def changed_versions(golden: Run, received: Run) -> str:
    """List the packages whose versions differ, ``transformers 5.2.0 -> 5.23.0``."""
    before, now = golden.environment.versions, received.environment.versions
    names = dict.fromkeys((*_OFTEN_BLAMED, *sorted({*before, *now})))
    return ", ".join(
        f"{name} {before.get(name, 'absent')} -> {now.get(name, 'absent')}"
        for name in names
        if before.get(name) != now.get(name)
    )


def numeric_differences(before: Environment, now: Environment) -> str:
    """Say what differs between two environments that may change the last bits of any result.

    Return the empty string if nothing does: then equal models give equal bits.
    """
    names = ("device", "dtype", "attention", "threads", "cpu", "kernels")
    pairs = [(name, getattr(before, name), getattr(now, name)) for name in names]
    pairs.append(("torch", before.versions.get("torch"), now.versions.get("torch")))
    default = "as torch has them"
    return ", ".join(
        f"{name} {old or default} -> {new or default}" for name, old, new in pairs if old != new
    )
