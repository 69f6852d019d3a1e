"""A mask that only one run passes to a module: without a value, it cannot drift."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    drift_from,
    drifted,
    find,
    make_forward,
    make_generation,
    make_pass,
    make_run,
    why,
)

from pytest_nnsight.run import ROOT, Call, Run

START = "model.layers.1.self_attn.o_proj in.0"
NONE, TENSOR = "{0=tensor, attention_mask=None}", "{0=tensor, attention_mask=tensor}"


def with_inputs(run: Run, inputs: str, *paths: str) -> Run:
    """Return a run that describes the inputs of some modules as ``inputs``."""
    calls = (call._replace(inputs=inputs) if call.path in paths else call for call in run.calls)
    return replace(run, calls=tuple(calls))


ATTENTION, LAYER = "model.layers.1.self_attn", "model.layers.1"


@pytest.mark.parametrize(
    ("paths", "where", "module"),
    [
        ((ATTENTION,), LAYER, ATTENTION),
        ((ATTENTION, LAYER), "model", LAYER),
        ((ATTENTION, LAYER, "model"), ROOT, "model"),
    ],
)
def test_module_that_passes_on_another_mask_is_the_start(
    paths: tuple[str, ...], where: str, module: str
) -> None:
    """Even through several modules; a list of layers is skipped, since it is never called."""
    golden, received = (
        with_inputs(make_pass(), NONE, *paths),
        with_inputs(drifted(START), TENSOR, *paths),
    )
    found = find(golden, received)
    assert (found.where, found.cause) == (where, "mask")
    assert found.evidence == f"{module} is given attention_mask: None -> tensor"
    assert found.start.label == START
    assert why(received, golden)[1] == f"{module} is given attention_mask: tensor -> None"


@pytest.mark.parametrize("inputs", [NONE, TENSOR])
def test_unchanged_mask_is_not_the_cause(inputs: str) -> None:
    golden, received = (
        with_inputs(make_pass(), inputs, ATTENTION),
        with_inputs(drifted(START), inputs, ATTENTION),
    )
    assert (find(golden, received).where, find(golden, received).cause) == (ATTENTION, "code")


def test_changed_mask_of_another_module_is_not_the_cause() -> None:
    other = "model.layers.0.self_attn"
    found = find(with_inputs(make_pass(), NONE, other), with_inputs(drifted(START), TENSOR, other))
    assert (found.where, found.cause) == (ATTENTION, "code")


def test_changed_input_that_is_not_a_mask_is_not_the_cause() -> None:
    golden = with_inputs(make_pass(), "{0=tensor, past_key_values=None}", ATTENTION)
    received = with_inputs(drifted(START), "{0=tensor, past_key_values=tensor}", ATTENTION)
    assert find(golden, received).cause == "code"


def test_growing_noise_is_not_blamed_on_a_mask() -> None:
    environment = {"attention": "eager"}
    growing = make_pass(lambda time, label: 5e-7 * 1.15**time, environment=environment)
    golden = make_pass()
    paths = [call.path for call in golden.calls]
    found = find(with_inputs(golden, NONE, *paths), with_inputs(growing, TENSOR, *paths))
    assert found.cause == "numerics"


@pytest.mark.parametrize("changed", [0, 2])
def test_changed_mask_in_another_step_is_not_the_cause(changed: int) -> None:
    def steps(start: str, inputs: str) -> Run:
        calls: list[Call] = []
        for step in range(3):
            passed = make_run(*make_forward(drift_from(start), visit=step, shape=(1, 1, 64)))
            calls += with_inputs(passed, inputs if step == changed else NONE, ATTENTION).calls
        return make_generation(5, 6, 7, calls=tuple(calls))

    found = find(steps("nowhere", NONE), steps(f"{ATTENTION}.o_proj#1 in.0", TENSOR))
    assert (found.where, found.cause) == (ATTENTION, "code")
    assert found.start.label == f"{ATTENTION}.o_proj#1 in.0"
