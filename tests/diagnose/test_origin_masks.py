"""A mask that a module is given, and was not before: it is no value that could drift."""

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


def given(run: Run, inputs: str, *paths: str) -> Run:
    """Return a run in which what enters some modules is described in another way."""
    calls = (call._replace(inputs=inputs) if call.path in paths else call for call in run.calls)
    return replace(run, calls=tuple(calls))


ATTENTION, LAYER = "model.layers.1.self_attn", "model.layers.1"


@pytest.mark.parametrize(
    ("paths", "where", "told"),
    [
        ((ATTENTION,), LAYER, ATTENTION),
        ((ATTENTION, LAYER), "model", LAYER),
        ((ATTENTION, LAYER, "model"), ROOT, "model"),
    ],
)
def test_the_module_that_gives_another_mask_is_the_start(
    paths: tuple[str, ...], where: str, told: str
) -> None:
    """Up to where it was given the mask itself; lists of layers are never called."""
    golden, received = given(make_pass(), NONE, *paths), given(drifted(START), TENSOR, *paths)
    found = find(golden, received)
    assert (found.where, found.cause) == (where, "mask")
    assert found.evidence == f"{told} is given attention_mask: None -> tensor"
    assert found.start.label == START
    assert why(received, golden)[1] == f"{told} is given attention_mask: tensor -> None"


@pytest.mark.parametrize("inputs", [NONE, TENSOR])
def test_the_same_mask_is_no_cause(inputs: str) -> None:
    golden, received = (
        given(make_pass(), inputs, ATTENTION),
        given(drifted(START), inputs, ATTENTION),
    )
    assert (find(golden, received).where, find(golden, received).cause) == (ATTENTION, "code")


def test_a_mask_of_another_module_is_no_cause() -> None:
    other = "model.layers.0.self_attn"
    found = find(given(make_pass(), NONE, other), given(drifted(START), TENSOR, other))
    assert (found.where, found.cause) == (ATTENTION, "code")


def test_another_input_that_is_no_mask_is_no_cause() -> None:
    golden = given(make_pass(), "{0=tensor, past_key_values=None}", ATTENTION)
    received = given(drifted(START), "{0=tensor, past_key_values=tensor}", ATTENTION)
    assert find(golden, received).cause == "code"


def test_noise_that_grows_is_not_blamed_on_a_mask() -> None:
    environment = {"attention": "eager"}
    growing = make_pass(lambda time, label: 5e-7 * 1.15**time, environment=environment)
    golden = make_pass()
    paths = [call.path for call in golden.calls]
    found = find(given(golden, NONE, *paths), given(growing, TENSOR, *paths))
    assert found.cause == "numerics"


@pytest.mark.parametrize("changed", [0, 2])
def test_a_mask_of_another_step_is_no_cause(changed: int) -> None:
    def steps(start: str, inputs: str) -> Run:
        calls: list[Call] = []
        for step in range(3):
            passed = make_run(*make_forward(drift_from(start), visit=step, shape=(1, 1, 64)))
            calls += given(passed, inputs if step == changed else NONE, ATTENTION).calls
        return make_generation(5, 6, 7, calls=tuple(calls))

    found = find(steps("nowhere", NONE), steps(f"{ATTENTION}.o_proj#1 in.0", TENSOR))
    assert (found.where, found.cause) == (ATTENTION, "code")
    assert found.start.label == f"{ATTENTION}.o_proj#1 in.0"
