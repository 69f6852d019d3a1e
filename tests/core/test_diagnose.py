"""Drifts -> where they start and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import VERSIONS, make_call, make_generation, make_run, make_summary

from pytest_nnsight.compare import compare
from pytest_nnsight.diagnose import Diagnosis, changed_keys, diagnose
from pytest_nnsight.run import Prompt, Run

DRIFTED = {"summary": make_summary(noise=1e-2)}
NEWER = {**VERSIONS, "transformers": "5.23.0"}


def find_cause(golden: Run, received: Run, *weights: dict[str, str]) -> Diagnosis:
    return diagnose(golden, received, compare(golden, received), *weights)


def drifted(**changes: Any) -> Run:
    return make_run(make_call(**DRIFTED), **changes)


def test_other_text_is_the_prompt() -> None:
    received = drifted(prompt=Prompt("Goodbye", ((1, 2, 9),)), model={"weights": "bbbb"})
    found = find_cause(make_run(), received)
    assert found.cause == "prompt"
    assert found.evidence == "the test asks for another prompt than the golden's"
    assert (found.start.kind, found.start.label) == ("ids", "prompt")


def test_ids_without_a_text_are_the_prompt() -> None:
    golden = make_run(prompt=Prompt(None, ((1, 2),)))
    received = drifted(prompt=Prompt(None, ((1, 3),)))
    assert find_cause(golden, received).cause == "prompt"


def test_same_text_with_other_ids_is_the_tokenizer() -> None:
    found = find_cause(make_run(), drifted(prompt=Prompt("Hello", ((1, 2, 9),))))
    assert (found.cause, found.evidence) == ("tokenizer", "the same text gives other token ids")


@pytest.mark.parametrize(
    ("change", "label"),
    [({"generation": {"seed": 2}}, "seed"), ({"intervention": "g"}, "intervention")],
)
def test_what_the_test_asks_for_is_settings(change: dict[str, Any], label: str) -> None:
    before = Prompt("Hello", ((1, 2, 3),), generation={"seed": 1}, intervention="f")
    received = drifted(prompt=replace(before, **change), model={"weights": "bbbb"})
    found = find_cause(make_run(prompt=before), received)
    assert found.cause == "settings"
    assert found.evidence == "the test asks for something else than the golden's"
    assert (found.start.kind, found.start.label) == ("settings", label)


def test_other_kind_of_run_is_settings() -> None:
    found = find_cause(make_run(), make_generation(5))
    assert found.cause == "settings"
    assert (found.start.kind, found.start.label) == ("kind", "run")


def test_other_prompt_comes_before_other_settings() -> None:
    received = drifted(prompt=Prompt("Goodbye", ((7,),), intervention="f"))
    assert find_cause(make_run(), received).cause == "prompt"


def test_one_other_parameter_is_named() -> None:
    before = {"h.0.w": "11", "h.1.w": "22", "ln.w": "33"}
    found = find_cause(
        make_run(), drifted(model={"weights": "bbbb"}), before, {**before, "h.1.w": "99"}
    )
    assert (found.cause, found.evidence) == ("weights", "1 of 3 parameters differ: h.1.w")


def test_several_other_parameters_are_counted() -> None:
    before = {"h.0.w": "11", "h.1.w": "22", "ln.w": "33"}
    now = {"h.0.w": "11", "h.1.w": "98", "ln.w": "99"}
    found = find_cause(make_run(), drifted(model={"weights": "bbbb"}), before, now)
    assert (found.cause, found.evidence) == ("weights", "2 of 3 parameters differ: h.1.w, ...")


def test_parameters_that_came_and_went_are_counted() -> None:
    before, now = {"a": "1", "b": "2"}, {"b": "2", "c": "3", "d": "4"}
    found = find_cause(make_run(), drifted(model={"weights": "bbbb"}), before, now)
    assert (found.cause, found.evidence) == ("weights", "1 parameters gone, 2 new: a")


def test_weights_without_parameters_show_their_fingerprints() -> None:
    found = find_cause(make_run(), drifted(model={"weights": "bbbb"}))
    assert (found.cause, found.evidence) == ("weights", "fingerprint aaaa -> bbbb")


def test_unknown_weights_are_not_accused() -> None:
    found = find_cause(make_run(model={"weights": None}), drifted(model={"weights": "bbbb"}))
    assert found.cause == "code"


def test_config_shows_old_and_new_of_nested_keys() -> None:
    config = {"hidden_size": 64, "model_type": "gpt2", "rope": {"theta": 5e5, "kind": "default"}}
    found = find_cause(make_run(), drifted(model={"config": config}))
    assert (found.cause, found.evidence) == ("config", "rope.theta 10000.0 -> 500000.0")


def test_many_config_keys_are_cut_after_three() -> None:
    golden = make_run(model={"config": dict.fromkeys("abcde", 1)})
    found = find_cause(golden, drifted(model={"config": dict.fromkeys("abcde", 2)}))
    assert found.evidence == "a 1 -> 2; b 1 -> 2; c 1 -> 2 ..."


def test_keys_that_only_one_side_has_do_not_count() -> None:
    assert changed_keys({"a": 1, "n": {"x": 1}}, {"a": 1, "b": 2, "n": {"x": 1, "y": None}}) == []


def test_weights_and_config_together() -> None:
    received = drifted(model={"weights": "bbbb", "config": {"hidden_size": 65}})
    found = find_cause(make_run(), received, {"w": "1"}, {"w": "2"})
    assert found.cause == "config and weights"
    assert found.evidence == "hidden_size 64 -> 65; 1 of 1 parameters differ: w"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"output": "(tensor,)"}, "container"),
        ({"module_class": "New"}, "class"),
        ({"path": "h.9"}, "missing"),
        ({"summary": make_summary(shape=(1, 8, 64))}, "shape"),
    ],
)
def test_changed_structure_names_the_versions_that_moved(change: dict[str, Any], kind: str) -> None:
    received = make_run(make_call(**change), environment={"versions": NEWER})
    found = find_cause(make_run(), received)
    assert (found.cause, found.evidence) == ("structure", "transformers 5.2.0 -> 5.23.0")
    assert found.start.kind == kind


def test_changed_structure_without_moved_versions() -> None:
    found = find_cause(make_run(), make_run(make_call(output="(tensor,)")))
    assert (found.cause, found.evidence) == ("structure", "same weights, config and versions")


def test_moved_versions_are_the_code() -> None:
    found = find_cause(make_run(), drifted(environment={"versions": NEWER}))
    assert found.cause == "code"
    assert found.evidence == "same weights and config; transformers 5.2.0 -> 5.23.0"


def test_version_that_came_or_went_is_absent_on_the_other_side() -> None:
    fewer = {key: value for key, value in VERSIONS.items() if key != "torch"}
    found = find_cause(make_run(), drifted(environment={"versions": fewer}))
    assert found.evidence == "same weights and config; torch 2.13.0 -> absent"


def test_nothing_moved_is_a_patched_module() -> None:
    found = find_cause(make_run(), drifted())
    assert found.cause == "code"
    assert (
        found.evidence == "same weights, config and versions: a patched module, a hook or an edit"
    )


@pytest.mark.parametrize(
    ("changes", "evidence"),
    [
        ({"attention": "eager"}, "attention sdpa -> eager"),
        ({"device": "cuda", "threads": 8}, "device cpu -> cuda, threads 2 -> 8"),
        ({"cpu": "arm64 NEON"}, "cpu x86_64 AVX2 -> arm64 NEON"),
    ],
)
def test_small_drift_under_other_arithmetic_is_numerics(
    changes: dict[str, Any], evidence: str
) -> None:
    received = make_run(make_call(summary=make_summary(noise=5e-5)), environment=changes)
    found = find_cause(make_run(), received)
    assert (found.cause, found.evidence) == ("numerics", evidence)


def test_large_drift_under_other_arithmetic_may_be_code() -> None:
    found = find_cause(make_run(), drifted(environment={"attention": "eager"}))
    assert (found.cause, found.evidence) == ("code or numerics", "attention sdpa -> eager")


def test_drift_starts_at_the_first_call_not_the_worst() -> None:
    paths = [f"h.{i}" for i in range(4)]
    noise = [0.0, 1e-3, 1e-1, 1.0]
    golden = make_run(*(make_call(path) for path in paths))
    received = make_run(
        *(make_call(p, make_summary(noise=n)) for p, n in zip(paths, noise, strict=True))
    )
    assert find_cause(golden, received).start.label == "h.1"


def test_generated_ids_come_last() -> None:
    golden = make_generation(5, 6)
    received = make_generation(5, 7, calls=(make_call(**DRIFTED),))
    assert find_cause(golden, received).start.kind == "values"
    assert find_cause(golden, make_generation(5, 7)).start.label == "generated"
