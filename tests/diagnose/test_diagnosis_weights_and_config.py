"""Weights, config or code: which of them causes a drift that starts in a module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    CONFIG,
    NEWER,
    OTHER_THREADS,
    VERSIONS,
    drift_from,
    drifted,
    find,
    make_call,
    make_pass,
    make_run,
    make_summary,
    why,
)

from pytest_nnsight.run import Leaf, Run

START = "model.layers.0.mlp.up_proj"
WEIGHTS = {f"model.layers.{i}.mlp.up_proj.weight": "aa" for i in range(2)}
OTHER_WEIGHTS = {**WEIGHTS, f"{START}.weight": "bb"}
OTHER = {"weights": "bbbb"}
OTHER_THETA = {"config": {**CONFIG, "rope": {"theta": 5e5, "kind": "default"}}}
NORMS = {"LlamaRMSNorm": {"(64,), eps=1e-05": 5}, "Linear": {"64 -> 64": 13}}
OTHER_NORMS = {**NORMS, "LlamaRMSNorm": {"(64,), eps=1e-06": 5}}
CHANGE = "5 of 5 LlamaRMSNorm: (64,), eps=1e-05 -> (64,), eps=1e-06"


def test_changed_parameter_of_the_starting_module_is_the_cause() -> None:
    found = why(make_pass(), drifted(model=OTHER), WEIGHTS, OTHER_WEIGHTS)
    assert found == ("weights", f"1 of 2 parameters differ: {START}.weight", True)


def test_changed_parameter_inside_the_starting_module_is_the_cause() -> None:
    received = drifted("model.layers.0.mlp.down_proj in.0", model=OTHER)
    found = find(make_pass(), received, WEIGHTS, OTHER_WEIGHTS)
    assert (found.where, found.cause, found.is_certain) == ("model.layers.0.mlp", "weights", True)


@pytest.mark.parametrize("start", ["model.layers.1.mlp.up_proj", "model.layers.0.mlp.act_fn"])
def test_changed_parameter_of_another_module_is_a_likely_cause(start: str) -> None:
    found = why(make_pass(), drifted(start, model=OTHER), WEIGHTS, OTHER_WEIGHTS)
    assert found == ("weights", f"1 of 2 parameters differ: {START}.weight", False)


def test_parameter_of_a_module_with_a_longer_name_is_not_its_own() -> None:
    now = {f"{START}_2.weight": "bb"}
    before = dict.fromkeys(now, "aa")
    assert not find(make_pass(), drifted(model=OTHER), before, now).is_certain


def test_weights_known_only_as_a_whole_are_a_likely_cause() -> None:
    found = why(make_pass(), drifted(model=OTHER))
    assert found == ("weights", "fingerprint aaaa -> bbbb", False)


def test_unknown_weights_are_not_the_cause() -> None:
    assert why(make_pass(model={"weights": None}), drifted(model=OTHER))[0] == "code"


@pytest.mark.parametrize(
    ("environment", "certain"), [({}, True), (OTHER_THREADS, True)], ids=["same", "threads"]
)
def test_changed_embedding_is_the_certain_cause_at_a_tied_head(
    environment: dict[str, Any], certain: bool
) -> None:
    """The head has no parameter of its own name."""
    before = {"model.embed_tokens.weight": "aa", "model.norm.weight": "cc"}
    now = {**before, "model.embed_tokens.weight": "bb"}
    received = drifted("lm_head", model=OTHER, environment=environment)
    evidence = "1 of 2 parameters differ: model.embed_tokens.weight"
    assert why(make_pass(), received, before, now) == ("weights", evidence, certain)


def test_head_with_its_own_weight_is_not_tied() -> None:
    before = {"model.embed_tokens.weight": "aa", "lm_head.weight": "cc"}
    now = {**before, "model.embed_tokens.weight": "bb"}
    assert not find(make_pass(), drifted("lm_head", model=OTHER), before, now).is_certain


def test_head_is_not_tied_to_a_module_that_is_not_an_embedding() -> None:
    before = {"model.norm.weight": "aa"}
    received = drifted("lm_head", model=OTHER)
    assert not find(make_pass(), received, before, {"model.norm.weight": "bb"}).is_certain


def test_growing_noise_is_not_blamed_on_a_tied_embedding() -> None:
    before, now = {"model.embed_tokens.weight": "aa"}, {"model.embed_tokens.weight": "bb"}
    received = make_pass(
        lambda time, label: 5e-7 * 1.15**time, model=OTHER, environment=OTHER_THREADS
    )
    assert find(make_pass(), received, before, now).is_certain is False


def test_changed_config_alone_is_the_cause() -> None:
    found = why(make_pass(), drifted(model=OTHER_THETA))
    assert found == ("config", "rope.theta 10000 -> 500000", True)


def test_changed_config_with_changed_versions_is_a_likely_cause() -> None:
    found = why(make_pass(), drifted(model=OTHER_THETA, environment=NEWER))
    assert found == ("config", "rope.theta 10000 -> 500000", False)


SAVED_BY_5 = {"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}}
READ_BY_4 = {"model": {"config": {"rope_theta": 1e4, **SAVED_BY_5}}, "environment": NEWER}
THETA_LOST = "rope_parameters.rope_theta 100000 -> 10000"


def test_changed_rotary_settings_are_certain_if_the_drift_starts_there() -> None:
    """Transformers 4 does not read what 5 saved, and silently uses its default."""
    before, now = (make_call("model.rotary_emb", make_summary(seed=seed)) for seed in (1, 2))
    found = why(make_run(before, model={"config": SAVED_BY_5}), make_run(now, **READ_BY_4))
    assert found == ("config", THETA_LOST, True)


@pytest.mark.parametrize(
    ("config", "cause"), [(SAVED_BY_5, "config"), (READ_BY_4["model"]["config"], "positions")]
)
def test_tables_of_changed_rotary_settings_are_not_changed_positions(
    config: dict[str, Any], cause: str
) -> None:
    """If the rotary embedding is not captured, its tables only show as inputs of a block."""

    def run(seed: int, **changes: Any) -> Run:
        tables = Leaf("in.position_embeddings[0]", make_summary(seed=seed))
        return make_run(make_call(leaves=(tables, Leaf("out", make_summary()))), **changes)

    found = find(run(1, model={"config": config}), run(2, **READ_BY_4))
    assert (found.cause, found.is_certain) == (cause, True)


def test_changed_rotary_settings_are_likely_if_the_drift_starts_elsewhere() -> None:
    golden = make_pass(model={"config": SAVED_BY_5})
    assert why(golden, drifted(**READ_BY_4)) == ("config", THETA_LOST, False)


def test_changed_other_settings_are_likely_if_the_drift_starts_at_the_rotary_embedding() -> None:
    before, now = (make_call("model.rotary_emb", make_summary(seed=seed)) for seed in (1, 2))
    received = make_run(now, model={"config": {"hidden_size": 65}}, environment=NEWER)
    assert why(make_run(before), received) == ("config", "hidden_size 64 -> 65", False)


def test_changed_config_with_changed_weights_elsewhere_is_a_likely_cause() -> None:
    received = drifted("model.layers.1.mlp.act_fn", model={**OTHER, **OTHER_THETA})
    found = why(make_pass(), received, WEIGHTS, OTHER_WEIGHTS)
    assert found == ("config", "rope.theta 10000 -> 500000", False)


def test_only_three_changed_config_keys_are_named() -> None:
    golden = make_pass(model={"config": dict.fromkeys("abcde", 1)})
    found = find(golden, drifted(model={"config": dict.fromkeys("abcde", 2)}))
    assert found.evidence == "a 1 -> 2; b 1 -> 2; c 1 -> 2 ..."


def test_changed_weights_of_the_starting_module_and_config_are_both_the_cause() -> None:
    received = drifted(model={**OTHER, "config": {**CONFIG, "hidden_size": 65}})
    cause, evidence, _ = why(make_pass(), received, WEIGHTS, OTHER_WEIGHTS)
    assert cause == "config and weights"
    assert evidence == f"hidden_size 64 -> 65; 1 of 2 parameters differ: {START}.weight"


def norms(start: str = "model.layers.0.input_layernorm", **model: Any) -> Run:
    return make_pass(drift_from(start), model=model)


def test_other_settings_of_the_starting_class_with_the_same_config_are_code() -> None:
    golden = make_pass(model={"modules": NORMS})
    found = find(golden, norms(modules=OTHER_NORMS))
    assert (found.cause, found.evidence) == ("code", f"same config, but {CHANGE}")
    assert (found.is_certain, found.class_count) == (True, "5 of 5 LlamaRMSNorm")


def test_other_settings_of_the_starting_class_make_a_changed_config_certain() -> None:
    golden = make_pass(model={"modules": NORMS})
    received = replace(
        norms(modules=OTHER_NORMS, **OTHER_THETA),
        environment=drifted(environment=NEWER).environment,
    )
    found = find(golden, received)
    assert (found.cause, found.is_certain) == ("config", True)
    assert found.evidence == "rope.theta 10000 -> 500000"


def test_other_settings_of_a_class_outside_the_starting_module_are_ignored() -> None:
    received = norms("model.layers.0.mlp.act_fn", modules=OTHER_NORMS)
    found = find(make_pass(model={"modules": NORMS}), received)
    assert found.evidence.startswith("same inputs, weights, config and versions")
    assert found.class_count == ""


def test_other_settings_of_a_class_inside_the_starting_module_are_the_cause() -> None:
    """The code of a module may use a child without calling it."""
    linear = {**NORMS, "Linear": {"64 -> 65": 13}}
    received = norms("model.layers.0.mlp.down_proj in.0", modules=linear)
    found = find(make_pass(model={"modules": NORMS}), received)
    assert found.evidence == "same config, but 13 of 13 Linear: 64 -> 64 -> 64 -> 65"


def test_other_settings_of_a_class_that_was_not_captured_are_the_cause() -> None:
    """A drift in the input of a captured module may come from any other module."""

    def only_mlp(run: Run) -> Run:
        return replace(run, calls=tuple(c for c in run.calls if c.path.endswith(".mlp")))

    golden = only_mlp(make_pass(model={"modules": NORMS}))
    found = find(golden, only_mlp(norms(modules=OTHER_NORMS)))
    assert (found.cause, found.evidence) == ("code", f"same config, but {CHANGE}")


def test_a_single_module_with_other_settings_has_no_class_count() -> None:
    one = {**NORMS, "LlamaRMSNorm": {"(64,), eps=1e-05": 4, "(64,), eps=1e-06": 1}}
    found = find(make_pass(model={"modules": NORMS}), norms(modules=one))
    assert found.evidence.startswith("same config, but 1 of 5 LlamaRMSNorm")
    assert found.class_count == ""


def test_changed_versions_are_not_the_cause_if_weights_of_the_module_differ() -> None:
    received = drifted(model=OTHER, environment={"versions": {**VERSIONS, "torch": "9"}})
    assert why(make_pass(), received, WEIGHTS, OTHER_WEIGHTS)[0] == "weights"
