"""A drift of values starts where the inputs of a module agree and its output does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    OTHER_THREADS,
    Drift,
    drift_from,
    make_call,
    make_forward,
    make_generation,
    make_pass,
    make_run,
    make_summary,
    normal,
    origin_of,
    summarize,
)

from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.origin import locate
from pytest_nnsight.run import ROOT, Call, Leaf, Run

LAYER = "model.layers.1"
# A value, and the module whose own code computes it.
MAKERS = [
    ("model.embed_tokens", "model.embed_tokens"),
    (f"{LAYER}.self_attn.q_proj", f"{LAYER}.self_attn.q_proj"),
    (f"{LAYER}.self_attn.o_proj in.0", f"{LAYER}.self_attn"),
    (f"{LAYER}.post_attention_layernorm in.0", LAYER),
    (f"{LAYER}.mlp.act_fn", f"{LAYER}.mlp.act_fn"),
    (f"{LAYER}.mlp.down_proj in.0", f"{LAYER}.mlp"),
    (LAYER, LAYER),
    ("lm_head", "lm_head"),
]


def only_outputs(run: Run, *endings: str) -> Run:
    """Return a run that captured some modules, without their inputs."""
    calls = tuple(
        call._replace(inputs=None, leaves=tuple(leaf for leaf in call.leaves if leaf.at == "out"))
        for call in run.calls
        if call.path.endswith(endings)
    )
    return replace(run, calls=calls)


@pytest.mark.parametrize("environment", [{}, OTHER_THREADS], ids=["same", "threads"])
@pytest.mark.parametrize(("start", "where"), MAKERS)
def test_drift_starts_in_the_module_that_computed_the_first_wrong_value(
    start: str, where: str, environment: dict[str, Any]
) -> None:
    noise = 5e-7 if environment else 0.0
    received = make_pass(drift_from(start, noise=noise), environment=environment)
    found = origin_of(make_pass(), received)
    assert (found.start.label, found.where, found.is_jump) == (start, where, True)
    assert found.value is not None
    assert found.start in compare(make_pass(), received).failures
    assert found.class_count == ""


def test_first_unequal_value_is_the_start_even_within_the_tolerance() -> None:
    start = f"{LAYER}.mlp.act_fn"

    def drift(time: int, label: str) -> float:
        return {start: 1e-7, "lm_head": 1e-3}.get(label, 0.0)

    comparison = compare(make_pass(), make_pass(drift))
    found = locate(make_pass(), make_pass(drift), comparison)
    assert (found.start.label, found.where, found.start.allowed) == (start, start, 1e-5)
    assert 0 < found.start.rel < 1e-6
    assert [drift.label for drift in comparison.failures] == ["lm_head", f"{ROOT} out.logits"]


def test_start_above_the_tolerance_is_the_failure_itself() -> None:
    received = make_pass(drift_from("lm_head"))
    comparison = compare(make_pass(), received)
    assert locate(make_pass(), received, comparison).start is comparison.failures[0]


def test_small_drift_after_many_equal_values_is_the_start() -> None:
    """In another environment too: more than 30 equal values show that it repeats all bits."""
    start = "model.layers.2.self_attn.q_proj"

    def drift(time: int, label: str) -> float:
        return {start: 3e-7, "lm_head": 1e-3}.get(label, 0.0)

    received = make_pass(drift, layers=3, environment=OTHER_THREADS)
    assert origin_of(make_pass(layers=3), received).start.label == "lm_head"
    late = "model.layers.2.mlp.act_fn"

    def later(time: int, label: str) -> float:
        return {late: 3e-7, "lm_head": 1e-3}.get(label, 0.0)

    received = make_pass(later, layers=3, environment=OTHER_THREADS)
    found = origin_of(make_pass(layers=3), received)
    assert (found.start.label, found.is_jump) == (late, True)


@pytest.mark.parametrize("noise", [1e-7, 1e-6, 3e-6])
def test_start_is_the_first_jump_in_another_environment(noise: float) -> None:
    start = f"{LAYER}.mlp.gate_proj"
    received = make_pass(drift_from(start, noise=noise), environment=OTHER_THREADS)
    found = origin_of(make_pass(), received)
    assert (found.start.label, found.is_jump) == (start, True)


def test_early_jump_that_is_too_small_to_cause_the_failure_is_not_the_start() -> None:
    def drift(time: int, label: str) -> float:
        early = {"model.embed_tokens": 6e-6, "model.layers.0.input_layernorm": 6e-6}
        later = drift_later(time, label)
        return later if later > 1e-6 else early.get(label, 3e-7)

    drift_later = drift_from(f"{LAYER}.mlp.gate_proj", noise=3e-7)
    received = make_pass(drift, environment=OTHER_THREADS)
    assert origin_of(make_pass(), received).start.label == f"{LAYER}.mlp.gate_proj"


@pytest.mark.parametrize(
    ("later", "start"), [(2e-5, "model.layers.0.mlp.up_proj"), (1e-3, f"{LAYER}.input_layernorm")]
)
def test_early_jump_within_the_tolerance_is_the_start_if_it_may_cause_the_failure(
    later: float, start: str
) -> None:
    """The first value above the tolerance comes later, by amplification or by another jump."""
    begun = drift_from("model.layers.0.mlp.up_proj", size=5e-6, noise=3e-7)

    def drift(time: int, label: str) -> float:
        size = begun(time, label)
        return later if size > 1e-6 and label.startswith(LAYER) else size

    found = origin_of(make_pass(), make_pass(drift, environment=OTHER_THREADS))
    assert (found.start.label, found.is_jump) == (start, True)


def growth(time: int, label: str) -> float:
    return 5e-7 * 1.15**time


def test_growing_noise_starts_at_the_first_failure_without_a_jump() -> None:
    received = make_pass(growth, environment=OTHER_THREADS)
    comparison = compare(make_pass(), received)
    found = locate(make_pass(), received, comparison)
    assert not found.is_jump
    assert found.start.label == comparison.failures[0].label
    assert found.start.label not in ("lm_head", "model.embed_tokens")


@pytest.mark.parametrize(("noise", "start"), [(0.0, "a"), (1e-4, "b")])
def test_measured_noise_of_a_value_is_not_a_jump(noise: float, start: str) -> None:
    """A calibrated golden knows the noise of each value."""

    def run_of(*sizes: float, **changes: Any) -> Run:
        x, a, b = (make_summary(noise=size, seed=i) for i, size in enumerate((0.0, *sizes)))
        a = a._replace(noise=noise)
        ends = [("a", x, a), ("b", a, b)]
        calls = (
            make_call(path, leaves=(Leaf("in.0", entering), Leaf("out", leaving)), inputs="{}")
            for path, entering, leaving in ends
        )
        return make_run(*calls, **changes)

    golden = run_of(0.0, 0.0, calibration=("2 threads",))
    received = run_of(2e-4, 2e-3, environment=OTHER_THREADS)
    assert origin_of(golden, received).start.label == start


def test_jump_of_a_single_token_is_the_start() -> None:
    shape = (1, 31, 64)

    def run_of(noise: float, jump: float, **changes: Any) -> Run:
        x, a, b, c = (
            normal(*shape, seed=seed) + noise * normal(*shape, seed=seed + 50) for seed in range(4)
        )
        b[0, 11] += jump * normal(64, seed=9)
        c += 10 * jump * normal(*shape, seed=10)
        leaves = [summarize(value) for value in (x, a, b, c)]
        calls = (
            make_call(path, leaves=(Leaf("in.0", old), Leaf("out", new)), inputs="{0=tensor}")
            for path, old, new in zip("abc", leaves, leaves[1:], strict=False)
        )
        return make_run(*calls, **changes)

    golden, received = run_of(0, 0), run_of(5e-7, 1.9e-5, environment=OTHER_THREADS)
    comparison = compare(golden, received)
    assert comparison.values[1, "out"].rms < 3.75e-6
    found = locate(golden, received, comparison)
    assert (found.where, found.is_jump) == ("b", True)


def steps(drift: Drift, visit: int) -> Run:
    """Return a generation of three steps, of which one drifts."""
    calls: list[Call] = []
    for step in range(3):
        shape = (1, 7 if step == 0 else 1, 64)
        calls += make_forward(drift if step == visit else no_drift, visit=step, shape=shape)
    return make_generation(5, 6, 7, calls=tuple(calls))


def no_drift(time: int, label: str) -> float:
    return 0.0


@pytest.mark.parametrize("visit", [0, 2])
def test_drift_in_a_later_step_starts_at_that_visit(visit: int) -> None:
    name = "model.layers.0.mlp.down_proj" + (f"#{visit}" if visit else "")
    found = origin_of(steps(no_drift, 0), steps(drift_from(f"{name} in.0"), visit))
    assert (found.start.label, found.where) == (f"{name} in.0", "model.layers.0.mlp")
    assert found.value is not None
    assert found.value.call.visit == visit


@pytest.mark.parametrize("environment", [{}, OTHER_THREADS], ids=["same", "threads"])
def test_first_drifting_module_is_the_start_without_captured_inputs(
    environment: dict[str, Any],
) -> None:
    received = make_pass(drift_from(f"{LAYER}.mlp.up_proj", noise=1e-7), environment=environment)
    golden = only_outputs(make_pass(), "norm", ".mlp")
    if not environment:
        received = make_pass(drift_from(f"{LAYER}.mlp.up_proj"))
    found = origin_of(golden, only_outputs(received, "norm", ".mlp"))
    assert (found.start.label, found.where) == (f"{LAYER}.mlp", f"{LAYER}.mlp")


def test_drift_in_the_input_of_a_captured_module_starts_outside_of_it() -> None:
    def only_mlp(run: Run) -> Run:
        return replace(run, calls=tuple(c for c in run.calls if c.path.endswith(".mlp")))

    received = make_pass(drift_from(f"{LAYER}.self_attn.q_proj"))
    found = origin_of(only_mlp(make_pass()), only_mlp(received))
    assert (found.start.label, found.where) == (f"{LAYER}.mlp in.0", ROOT)


@pytest.mark.parametrize("path", ["model.layers.0.mlp", LAYER + ".self_attn", ROOT])
def test_output_changed_after_the_last_child_starts_in_the_parent(path: str) -> None:
    """As a hook or an edit does: one tensor of the golden is two tensors now."""
    golden = make_pass()
    call = next(call for call in golden.calls if call.path == path)
    *inputs, output = call.leaves
    edited = Leaf(output.at, make_summary(seed=77))
    after = {id(output.summary): edited.summary}
    calls = []
    for other in golden.calls[golden.calls.index(call) + 1 :]:
        leaves = tuple(
            Leaf(leaf.at, after.get(id(leaf.summary), leaf.summary)) for leaf in other.leaves
        )
        calls.append(other._replace(leaves=leaves))
    before = golden.calls[: golden.calls.index(call)]
    received = make_run(*before, call._replace(leaves=(*inputs, edited)), *calls)
    found = origin_of(golden, received)
    assert (found.start.path, found.where) == (path, path)
