"""What belongs to a model beside its modules: nnsight's edits, configs, the tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from pytest_nnsight import nnsight_api
from pytest_nnsight.guard.leak import Leak, Restore, listed

_OF_TOKENIZER = ("padding_side", "truncation_side", "pad_token", "eos_token", "chat_template")


def snapshot_edits(model: Any) -> Restore:
    """Keep the persistent edits (``model.edit(inplace=True)``) that a model carries."""
    before = nnsight_api.edits(model)

    def restore() -> Iterator[Leak]:
        now = nnsight_api.edits(model)
        if [*map(id, now)] == [*map(id, before)]:
            return
        nnsight_api.set_edits(model, before)
        more = len(now) - len(before)
        yield Leak(
            f"{more} persistent edit(s), cleared"
            if more > 0
            else "persistent edits gone or replaced, restored"
        )

    return restore


def snapshot_configs(model: Any) -> Restore:
    """Keep the config and the generation config of a model."""
    module = nnsight_api.torch_module(model)
    found = {
        name: getattr(module, name)
        for name in ("config", "generation_config")
        if hasattr(getattr(module, name, None), "to_dict")
    }
    before = {name: (_plain(config), copy.deepcopy(vars(config))) for name, config in found.items()}

    def restore() -> Iterator[Leak]:
        for name, config in found.items():
            plain, values = before[name]
            is_owned = getattr(module, name, None) is config
            now = _plain(config)
            if is_owned and now == plain:
                continue
            keys = sorted(key for key in {*plain, *now} if plain.get(key) != now.get(key))
            vars(config).clear()
            vars(config).update(values)
            setattr(module, name, config)
            yield Leak(f"{name.replace('_', ' ')} {listed(keys) or 'replaced'}, restored")

    return restore


def _plain(config: Any) -> dict[str, Any]:
    attention = getattr(config, "_attn_implementation", None)  # no part of the dict
    return {**config.to_dict(), "attention implementation": attention}


def snapshot_tokenizer(model: Any) -> Restore:
    """Keep what of a tokenizer decides how a text becomes token ids."""
    tokenizer = getattr(model, "tokenizer", None)
    before = {name: getattr(tokenizer, name) for name in _OF_TOKENIZER if hasattr(tokenizer, name)}

    def restore() -> Iterator[Leak]:
        for name, value in before.items():
            now = getattr(tokenizer, name)
            if now != value:
                setattr(tokenizer, name, value)
                told = "" if name == "chat_template" else f" {now!r}, back to {value!r}"
                yield Leak(f"tokenizer {name.replace('_', ' ')}{told or ', restored'}")

    return restore
