"""Each rule of a diagnosis names its cause, and whether it is certain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import (
    CONFIG,
    NEWER,
    OTHER_THREADS,
    drifted,
    find,
    make_call,
    make_generation,
    make_greedy,
    make_pass,
    make_run,
    make_summary,
    summarize,
    why,
)

from pytest_nnsight.run import ROOT, Leaf, Prompt, Run, Summary

OTHER_THETA = {"config": {**CONFIG, "rope": {"theta": 5e5, "kind": "default"}}}


def prompted(**changes: Any) -> Prompt:
    return replace(Prompt("Hello", ((1, 2, 3),)), **changes)


@pytest.mark.parametrize(
    ("before", "now", "cause", "evidence"),
    [
        (
            {},
            {"text": "Bye", "token_ids": ((9,),)},
            "prompt",
            "the test asks for another prompt than the golden's",
        ),
        (
            {"text": None},
            {"text": None, "token_ids": ((9,),)},
            "prompt",
            "the test asks for another prompt than the golden's",
        ),
        ({}, {"token_ids": ((9,),)}, "tokenizer", "the same text gives other token ids"),
        (
            {"text": ["a", "b"]},
            {"text": ["a", "b"], "token_ids": ((9,),)},
            "tokenizer",
            "the same text gives other token ids",
        ),
        (
            {"text": [{"role": "user", "content": "Hi"}]},
            {"text": [{"role": "user", "content": "Hi"}], "token_ids": ((9,),)},
            "tokenizer",
            "the same messages give other token ids: another chat template?",
        ),
        (
            {"generation": {"seed": 1}},
            {"generation": {"seed": 2}, "token_ids": ((9,),)},
            "settings",
            "the test asks for other settings than the golden's",
        ),
        (
            {"intervention": "f"},
            {"intervention": "g"},
            "settings",
            "the test asks for other settings than the golden's",
        ),
        (
            {"tensors": {"attention_mask": ((1, 1, 1),)}},
            {"tensors": {"attention_mask": ((0, 1, 1),)}},
            "mask",
            "the model is given other attention_mask",
        ),
        (
            {"tensors": {"position_ids": ((0, 1, 2),)}},
            {"tensors": {"position_ids": ((1, 2, 3),)}},
            "positions",
            "the model is given other position_ids",
        ),
        (
            {"tensors": {"token_type_ids": ((0, 0, 0),)}},
            {"tensors": {"token_type_ids": ((1, 0, 0),)}},
            "tokenizer",
            "the same text gives other token_type_ids",
        ),
    ],
)
def test_changed_input_is_the_cause_even_if_weights_and_config_differ(
    before: dict[str, Any], now: dict[str, Any], cause: str, evidence: str
) -> None:
    received = drifted(prompt=prompted(**now), model={"weights": "bbbb", **OTHER_THETA})
    found = find(make_pass(prompt=prompted(**before)), received)
    assert (found.cause, found.evidence, found.is_certain) == (cause, evidence, True)
    assert found.where == "prompt"


def test_another_kind_of_run_has_the_cause_settings() -> None:
    found = find(make_run(), make_generation(5))
    assert (found.cause, found.start.kind, found.start.label) == ("settings", "kind", "run")


def test_another_token_in_a_near_tie_has_the_cause_sampling() -> None:
    received = make_greedy(5, 7, margin=1e-5, noise=5e-6, environment=OTHER_THREADS)
    found = find(make_greedy(5, 6, margin=1e-5), received)
    assert (found.cause, found.is_certain, found.where) == ("sampling", True, "generated")
    near, _, noise = found.evidence.partition(", noise ")
    assert near == "near tie at step 1: ' 6' -> ' 7', margin 2e-05"
    assert 3e-5 < float(noise) < 7e-5


def test_another_token_under_another_generation_config_has_the_cause_config() -> None:
    settings = {"generation": {"repetition_penalty": 1.1}}
    received = make_greedy(5, 7, model=settings)
    evidence = "generation repetition_penalty None -> 1.1"
    assert why(make_greedy(5, 6), received) == ("config", evidence, True)


def test_another_sampled_token_has_the_likely_cause_sampling() -> None:
    prompt = prompted(generation={"do_sample": True, "seed": 1})
    found = why(make_greedy(5, 6, prompt=prompt), make_greedy(5, 7, prompt=prompt))
    assert found == ("sampling", "step 1: ' 6' -> ' 7', drawn at random", False)


def test_another_token_with_a_clear_margin_has_the_likely_cause_code() -> None:
    evidence = "step 1: ' 6' -> ' 7', though the logits agree: the token is selected differently"
    assert why(make_greedy(5, 6), make_greedy(5, 7)) == ("code", evidence, False)


def entering(at: str, summary: Summary, path: str = "model.rotary_emb", **changes: Any) -> Run:
    """Return a run in which one tensor that enters a module differs."""
    leaves = (Leaf(at, summary), Leaf("out", make_summary()))
    call = make_call(path, leaves=leaves, inputs="{0=tensor}")
    model = make_call(ROOT, leaves=(Leaf("out.logits", make_summary(seed=9)),))
    return make_run(call, model, **changes)


def positions(first: int) -> Summary:
    return summarize(torch.arange(first, first + 7)[None])


@pytest.mark.parametrize(
    ("at", "path", "cause", "what"),
    [
        ("in.position_ids", "model.layers.0", "positions", "position_ids"),
        ("in.cache_position", "model.layers.0", "positions", "cache_position"),
        ("in.1", "model.rotary_emb", "positions", "input 1"),
        ("in.input", "transformer.wpe", "positions", "input"),
        ("in.attention_mask", "model.layers.0", "mask", "attention_mask"),
    ],
)
def test_wrong_input_of_a_module_is_named_positions_or_mask(
    at: str, path: str, cause: str, what: str
) -> None:
    golden, received = (entering(at, positions(first), path) for first in (0, 1))
    assert why(golden, received) == (cause, f"{path} is given another {what}", True)


def test_changed_float_mask_has_the_cause_mask() -> None:
    golden, received = (
        entering("in.attention_mask", make_summary(seed=seed), "model.layers.0.self_attn")
        for seed in (1, 2)
    )
    evidence = "model.layers.0.self_attn is given another attention_mask"
    assert why(golden, received) == ("mask", evidence, True)


def test_changed_versions_are_named_with_changed_positions() -> None:
    golden = entering("in.position_ids", positions(0))
    received = entering("in.position_ids", positions(1), environment=NEWER)
    evidence = "model.rotary_emb is given another position_ids; transformers 5.2.0 -> 5.23.0"
    assert why(golden, received) == ("positions", evidence, True)


def test_changed_floats_into_a_rotary_embedding_are_not_positions() -> None:
    """It takes the hidden state only for its dtype."""
    golden, received = (entering("in.0", make_summary(seed=seed)) for seed in (1, 2))
    assert why(golden, received)[0] == "code"


def test_changed_integers_into_another_module_are_not_positions() -> None:
    golden, received = (
        entering("in.top_k_index", positions(first), "model.layers.0.mlp.experts")
        for first in (0, 1)
    )
    assert why(golden, received)[0] == "code"


def intervened(code: str, **changes: Any) -> dict[str, Any]:
    return {"prompt": prompted(intervention="zero_mlp", intervention_code=code), **changes}


def test_changed_intervention_is_a_likely_cause() -> None:
    found = why(make_pass(**intervened("aa")), drifted(**intervened("bb")))
    assert found == ("intervention", "zero_mlp was changed", False)


def test_intervention_is_not_the_cause_if_it_is_the_same_or_the_model_differs() -> None:
    golden = make_pass(**intervened("aa"))
    assert why(golden, drifted(**intervened("aa")))[0] == "code"
    other = intervened("bb", model={"weights": "bbbb"})
    assert why(golden, drifted(**other))[0] == "weights"
    assert why(golden, drifted(**intervened("bb", model=OTHER_THETA)))[0] == "config"
    modules = [{"modules": {"Linear": {text: 3}}} for text in ("bias=True", "bias=False")]
    golden = make_pass(**intervened("aa", model=modules[0]))
    assert why(golden, drifted(**intervened("bb", model=modules[1])))[0] == "code"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"output": "(tensor,)"}, "container"),
        ({"module_class": "New"}, "class"),
        ({"path": "h.9"}, "missing"),
        ({"summary": make_summary(shape=(1, 8, 64))}, "shape"),
        ({"summary": summarize(torch.ones(1, 7, 64, dtype=torch.int64))}, "dtype"),
    ],
)
def test_changed_structure_names_the_changed_versions(change: dict[str, Any], kind: str) -> None:
    found = find(make_run(), make_run(make_call(**change), environment=NEWER))
    assert (found.cause, found.evidence) == ("structure", "transformers 5.2.0 -> 5.23.0")
    assert (found.start.kind, found.is_certain) == (kind, True)


def test_changed_structure_with_other_weights_or_no_other_change() -> None:
    other = make_call(output="(tensor,)")
    evidence = "same weights, config and versions"
    assert why(make_run(), make_run(other)) == ("structure", evidence, True)
    received = make_run(other, model={"weights": "bbbb"})
    assert why(make_run(), received) == ("structure", "fingerprint aaaa -> bbbb", True)


def test_changed_structure_with_another_config_has_the_cause_config() -> None:
    received = make_run(make_call(output="(tensor,)"), model=OTHER_THETA)
    assert why(make_run(), received)[:2] == ("config", "rope.theta 10000 -> 500000")


@pytest.mark.parametrize(
    ("environment", "evidence"),
    [
        ({"attention": "eager"}, "attention sdpa -> eager"),
        ({"device": "cuda", "threads": 8}, "device cpu -> cuda, threads 2 -> 8"),
        ({"cpu": "arm64 NEON"}, "cpu x86_64 AVX2 -> arm64 NEON"),
    ],
)
def test_growing_noise_in_another_environment_has_the_cause_numerics(
    environment: dict[str, Any], evidence: str
) -> None:
    received = make_pass(lambda time, label: 5e-7 * 1.15**time, environment=environment)
    assert why(make_pass(), received) == ("numerics", evidence, True)


def test_small_jump_in_another_environment_has_the_likely_cause_numerics() -> None:
    received = drifted(size=5e-5, environment=OTHER_THREADS)
    assert why(make_pass(), received) == ("numerics", "threads 2 -> 8", False)


def test_large_jump_in_another_environment_may_be_code_or_numerics() -> None:
    evidence = "same inputs, weights and config; threads 2 -> 8"
    found = why(make_pass(), drifted(environment=OTHER_THREADS))
    assert found == ("code or numerics", evidence, False)


def test_large_jump_in_another_environment_with_other_versions_is_likely_code() -> None:
    evidence = "same inputs, weights and config; transformers 5.2.0 -> 5.23.0"
    found = why(make_pass(), drifted(environment={**OTHER_THREADS, **NEWER}))
    assert found == ("code", evidence, False)


def test_changed_versions_alone_have_the_cause_code() -> None:
    evidence = "same inputs, weights and config; transformers 5.2.0 -> 5.23.0"
    assert why(make_pass(), drifted(environment=NEWER)) == ("code", evidence, True)


def test_drift_without_any_known_change_has_the_cause_code() -> None:
    evidence = "same inputs, weights, config and versions: a patched module, a hook or an edit"
    assert why(make_pass(), drifted()) == ("code", evidence, True)


def test_drift_in_tensors_of_a_test_may_come_from_the_test() -> None:
    evidence = "same weights, config and versions: the test, a patched module, a hook or an edit"
    golden, received = (replace(run, kind="tensors") for run in (make_pass(), drifted()))
    assert why(golden, received) == ("code", evidence, False)
    newer = replace(drifted(environment=NEWER), kind="tensors")
    assert why(golden, newer)[1:] == (
        "same weights and config; transformers 5.2.0 -> 5.23.0",
        False,
    )
