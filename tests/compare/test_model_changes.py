"""What differs between the models and machines that made two runs, in words."""

from __future__ import annotations

from typing import Any

import pytest
from builders import VERSIONS, make_run

from pytest_nnsight.compare import model_changes
from pytest_nnsight.run import Prompt, Run

WEIGHTS = {"h.0.w": "11", "h.1.w": "22", "ln.w": "33"}


def model(**changes: Any) -> Run:
    return make_run(model=changes)


def configured(config: dict[str, Any]) -> Run:
    return make_run(model={"config": config})


def test_config_shows_old_and_new_of_nested_keys() -> None:
    before = {"hidden_size": 64, "rope": {"theta": 1e4, "kind": "default"}}
    now = {"hidden_size": 64, "rope": {"theta": 5e5, "kind": "default"}}
    assert model_changes.changed_config(configured(before), configured(now)) == [
        "rope.theta 10000 -> 500000"
    ]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (1e-5, 1e-6, "1e-05 -> 1e-06"),
        (0.125, 0.25, "0.125 -> 0.25"),
        (1.0, 1.0 + 1e-12, "1.0 -> 1.000000000001"),
        (1, 1.5, "1 -> 1.5"),
        (None, 8, "None -> 8"),
        ("silu", "gelu", "silu -> gelu"),
        (True, False, "True -> False"),
        ("x" * 50, "y" * 40, "x" * 37 + "... -> " + "y" * 40),
    ],
)
def test_a_changed_value_is_written_as_short_as_possible(old: Any, new: Any, text: str) -> None:
    assert model_changes.changed_keys({"k": old}, {"k": new}) == [f"k {text}"]


def test_config_keys_that_only_one_run_has_do_not_count() -> None:
    """Libraries add keys freely."""
    before, now = {"a": 1, "n": {"x": 1}}, {"b": 2, "n": {"x": 1, "y": None}}
    assert model_changes.changed_keys(before, now) == []


FIVE = {"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}, "hidden_size": 64}


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (FIVE, {"rope_theta": 100000, "rope_scaling": None}, []),
        (
            FIVE,
            {"rope_theta": 1e4, "rope_scaling": None, **FIVE},
            ["rope_parameters.rope_theta 100000 -> 10000"],
        ),
        (
            {"rope_theta": 1e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_theta": 1e5, "rope_type": "linear", "factor": 4.0}},
            ["rope_parameters.factor 2 -> 4"],
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}},
            {"rope_theta": 1e4, "rope_scaling": None},
            ["rope_parameters.rope_type linear -> default"],
        ),
        (
            {"text": {"rope_parameters": {"rope_theta": 1e5, "partial_rotary_factor": 0.25}}},
            {"text": {"rope_theta": 1e5, "partial_rotary_factor": 0.5}},
            ["text.rope_parameters.partial_rotary_factor 0.25 -> 0.5"],
        ),
        ({"rope_theta": 1e4}, {"rope_theta": 1e5}, ["rope_theta 10000 -> 100000"]),
    ],
    ids=["same", "lost", "scaling", "scaling lost", "nested", "both of 4"],
)
def test_rotary_settings_are_compared_across_transformers_4_and_5(
    before: dict[str, Any], now: dict[str, Any], expected: list[str]
) -> None:
    """Transformers 4 keeps the ``rope_parameters`` of version 5 as a key that it never reads."""
    assert model_changes.changed_keys(before, now) == expected
    assert len(model_changes.changed_keys(now, before)) == len(expected)


def test_changed_keys_come_in_order() -> None:
    before, now = dict.fromkeys("bca", 1), dict.fromkeys("cab", 2)
    assert [text[0] for text in model_changes.changed_keys(before, now)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "key", ["use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "tokenizer_class"]
)
def test_keys_that_no_forward_pass_reads_do_not_count(key: str) -> None:
    assert model_changes.changed_config(configured({key: 1}), configured({key: 2})) == []
    nested = ({"text": {key: 1}}, {"text": {key: 2}})
    assert model_changes.changed_config(*map(configured, nested)) == []
    assert model_changes.changed_keys({key: 1}, {key: 2}) == [f"{key} 1 -> 2"]


def test_generation_settings_count_if_only_one_run_has_them() -> None:
    found = model_changes.changed_generation(
        model(generation={"a": 1, "top_k": 5, "same": 0}),
        model(generation={"a": 2, "same": 0, "top_p": 0.9}),
    )
    assert found == [
        "generation a 1 -> 2",
        "generation top_k 5 -> None",
        "generation top_p None -> 0.9",
    ]


def test_modules_with_other_settings_are_counted_by_class() -> None:
    before = {"Norm": {"(64,), eps=1e-05": 61}, "Linear": {"64 -> 64": 8}, "Gone": {"": 1}}
    now = {"Norm": {"(64,), eps=1e-06": 61}, "Linear": {"64 -> 64": 8}, "New": {"": 1}}
    assert model_changes.changed_modules(model(modules=before), model(modules=now)) == {
        "Norm": "61 of 61 Norm: (64,), eps=1e-05 -> (64,), eps=1e-06"
    }


def test_some_modules_of_a_class_with_other_settings() -> None:
    before = {"Dropout": {"p=0.0": 10}}
    now = {"Dropout": {"p=0.0": 7, "p=0.1": 3}}
    assert model_changes.changed_modules(model(modules=before), model(modules=now)) == {
        "Dropout": "3 of 10 Dropout: p=0.0 -> p=0.1"
    }


def test_added_or_removed_modules_are_not_changed_modules() -> None:
    before, now = {"Dropout": {"p=0.0": 10}}, {"Dropout": {"p=0.0": 12}}
    assert model_changes.changed_modules(model(modules=before), model(modules=now)) == {}
    assert model_changes.changed_modules(model(modules=now), model(modules=before)) == {}


@pytest.mark.parametrize(
    ("now", "names", "text"),
    [
        (WEIGHTS, [], ""),
        (WEIGHTS | {"h.1.w": "99"}, ["h.1.w"], "1 of 3 parameters differ: h.1.w"),
        (
            WEIGHTS | {"h.1.w": "98", "ln.w": "99"},
            ["h.1.w", "ln.w"],
            "2 of 3 parameters differ: h.1.w, ...",
        ),
        (
            {"h.0.w": "11", "h.1.w": "22", "c": "3", "b": "4"},
            ["ln.w", "b", "c"],
            "1 parameters gone, 2 new: ln.w",
        ),
    ],
)
def test_parameters_that_differ_are_named(now: dict[str, str], names: list[str], text: str) -> None:
    found = model_changes.changed_weights(model(), model(weights="bbbb"), WEIGHTS, now)
    assert found == (names, text)


def test_parameters_are_ignored_if_the_fingerprints_of_the_models_are_equal() -> None:
    other = WEIGHTS | {"h.1.w": "99"}
    assert model_changes.changed_weights(model(), model(), WEIGHTS, other) == ([], "")


@pytest.mark.parametrize("fingerprints", [(None, None), (WEIGHTS, None), (None, WEIGHTS), ({}, {})])
def test_without_parameters_the_fingerprints_of_the_models_are_shown(
    fingerprints: tuple[dict[str, str] | None, dict[str, str] | None],
) -> None:
    found = model_changes.changed_weights(model(), model(weights="bbbb"), *fingerprints)
    assert found == ([], "fingerprint aaaa -> bbbb")
    assert model_changes.changed_weights(model(weights=None), model(), *fingerprints) == ([], "")
    assert model_changes.changed_weights(
        model(weights=None), model(weights=None), *fingerprints
    ) == (
        [],
        "",
    )


def test_changed_versions_are_listed_in_order_of_importance() -> None:
    before = {"accelerate": "1", "nnsight": "1", "torch": "1", "transformers": "1", "numpy": "1"}
    now = {**dict.fromkeys(before, "2"), "numpy": "1"}
    environments = [{"versions": before}, {"versions": now}]
    runs = [make_run(environment=environment) for environment in environments]
    assert model_changes.changed_versions(*runs) == (
        "transformers 1 -> 2, torch 1 -> 2, nnsight 1 -> 2, accelerate 1 -> 2"
    )


def test_a_package_that_only_one_run_has_is_shown_as_absent() -> None:
    fewer = {key: value for key, value in VERSIONS.items() if key != "torch"}
    golden, received = make_run(), make_run(environment={"versions": fewer})
    assert model_changes.changed_versions(golden, received) == "torch 2.13.0 -> absent"
    assert model_changes.changed_versions(received, golden) == "torch absent -> 2.13.0"
    assert model_changes.changed_versions(golden, golden) == ""


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({}, True),
        ({"model": {"weights": "other"}}, False),
        ({"model": {"weights": None}}, False),
        ({"model": {"config": {"eps": 1e-6}}}, False),
        ({"model": {"config": {"eps": 1e-5, "new": 1}}}, True),
        ({"model": {"modules": {"Norm": {"eps=1e-06": 2}}}}, False),
        ({"prompt": Prompt("x", ((1,),), intervention="f", intervention_code="cd")}, False),
    ],
    ids=str,
)
def test_models_are_the_same_only_if_all_fields_are_equal(
    changes: dict[str, Any], is_same: bool
) -> None:
    like = {"config": {"eps": 1e-5}, "modules": {"Norm": {"eps=1e-05": 2}}, "weights": "ab"}
    prompt = Prompt("x", ((1,),), intervention="f", intervention_code="ab")
    golden = make_run(model=like, prompt=prompt)
    received = make_run(**{"prompt": prompt, **changes, "model": like | changes.get("model", {})})
    assert model_changes.is_same_model(golden, received) is is_same


def test_models_with_unknown_weights_are_not_the_same() -> None:
    assert not model_changes.is_same_model(model(weights=None), model(weights=None))
