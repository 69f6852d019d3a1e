"""`Recorder`: steps of a generation that differ, and values that change after they are received."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import pytest
import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.run import Run

PROMPT = "The cat sat"
STEPS = 8


def generate(capture: Capture, **more: Any) -> Run:
    settings = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "inputs": True}
    return capture.generate(PROMPT, **settings | more)


@contextmanager
def before(capture: Capture, path: str, change: Callable[..., Any]) -> Iterator[list[int]]:
    """Call a function with arguments, keywords and step before a module runs.

    What it returns replaces the arguments. Yield a list with one item for each call of the module.
    Before 0.8 nnsight's own hooks come first or last.
    """
    if nnsight_api.version() < (0, 8):
        pytest.skip("what a hook changes is not what nnsight sees")
    calls: list[int] = []

    def counting(module: Any, arguments: Any, keywords: Any) -> Any:
        calls.append(1)
        return change(arguments, keywords, (len(calls) - 1) % STEPS)

    module = nnsight_api.torch_module(capture.model).get_submodule(path)
    handle = module.register_forward_pre_hook(counting, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@pytest.fixture
def fresh(capture_of: Callable[..., Capture]) -> Capture:
    """A model that no capture has yet found to change outputs in place."""
    return replace(capture_of("tiny:gpt2"), changing=WeakSet())


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("source", ["tiny:gpt2", "tiny:llama", "tiny:t5"])
def test_a_generation_is_the_same_with_its_tensors_kept(
    capture_of: Callable[..., Capture], source: str, attn: str
) -> None:
    capture = capture_of(source, attn=attn)
    run, kept = generate(capture), generate(capture, keep=True)
    assert run.calls == kept.calls
    assert run.generated == kept.generated


def test_what_a_module_is_not_asked_for_is_left_out(gpt2: Capture) -> None:
    paths = {call.path for call in generate(gpt2, modules="transformer.h.*", inputs=False).calls}
    assert paths == {"transformer.h.0", "transformer.h.1"}
    run, kept = (generate(gpt2, modules="**.mlp", keep=keep) for keep in (False, "transformer.h.0"))
    assert [c for c in kept.calls if c.path.endswith("mlp")] == [*run.calls]


def test_a_module_that_a_step_calls_twice_is_visited_twice(gpt2: Capture) -> None:
    norm = nnsight_api.torch_module(gpt2.model).get_submodule("transformer.ln_f")

    def again(arguments: Any, keywords: Any, step: int) -> None:
        if step == 4:
            norm(arguments[0])

    with before(gpt2, "transformer.h.0", again):
        run = generate(gpt2)
    visits = [call.visit for call in run.calls if call.path == "transformer.ln_f"]
    assert visits == [*range(STEPS + 1)]


def test_steps_that_are_chosen_have_all_of_their_values(gpt2: Capture) -> None:
    run, full = generate(gpt2, steps=[0, 3, 5]), generate(gpt2)
    assert [*run.calls] == [call for call in full.calls if call.visit in {0, 3, 5}]


@pytest.mark.parametrize("path", ["transformer.h.0", "transformer.ln_f"])
def test_other_arguments_are_recorded_by_name(gpt2: Capture, path: str) -> None:
    """One more, or the same by its name."""

    def change(arguments: Any, keywords: Any, step: int) -> Any:
        if step != 5:
            return None
        if path == "transformer.ln_f":
            return (), {"input": arguments[0]}
        return arguments, {**keywords, "note": "more"}

    with before(gpt2, path, change):
        run = generate(gpt2)
    structures = {call.inputs for call in run.calls if call.path == path}
    assert len(structures) == (1 if path == "transformer.ln_f" else 2)


def test_a_tensor_of_every_step_is_measured_once(gpt2: Capture) -> None:
    always: dict[int, torch.Tensor] = {}

    def instead(arguments: Any, keywords: Any, step: int) -> Any:
        tensor = always.setdefault(arguments[0].shape[1], torch.ones_like(arguments[0]))
        return (tensor,), {}

    with before(gpt2, "transformer.h.0.mlp.act", instead):
        run = generate(gpt2)
    leaves = [call.leaves[0] for call in run.calls if call.path == "transformer.h.0.mlp.act"]
    assert len({id(leaf.summary) for leaf in leaves[1:]}) == 1


def test_what_is_changed_in_place_in_a_late_step_is_recorded_as_it_was(fresh: Capture) -> None:
    """The model is run once more, and from then on its values are copied as they come."""

    def double(arguments: Any, keywords: Any, step: int) -> None:
        if step == 5:
            arguments[0].mul_(2)

    def instead(arguments: Any, keywords: Any, step: int) -> Any:
        return ((arguments[0] * 2,), {}) if step == 5 else None

    def outputs(run: Run) -> list[Any]:
        return [leaf for call in run.calls for leaf in call.leaves if leaf.at.startswith("out")]

    path = "transformer.h.1.mlp.act"
    with before(fresh, path, instead):
        expected = generate(fresh)
    with before(fresh, path, double) as calls:
        run = generate(fresh)
    assert outputs(run) == outputs(expected)
    assert len(calls) == 2 * STEPS


def test_what_was_changed_before_it_arrives_does_not_run_the_model_again(fresh: Capture) -> None:
    def double(arguments: Any, keywords: Any, step: int) -> Any:
        return (arguments[0].clone().mul_(2),), {}

    with before(fresh, "transformer.h.1.mlp.act", double) as calls:
        generate(fresh)
    assert len(calls) == STEPS


@pytest.mark.parametrize("change", ["another", "more", "none"])
def test_a_list_that_is_filled_later_is_recorded_as_it_arrived(gpt2: Capture, change: str) -> None:
    lists: list[list[Any]] = [[]]

    def give(arguments: Any, keywords: Any, step: int) -> Any:
        lists[0] = [arguments[0]]
        return arguments, {**keywords, "note": lists[0]}

    def fill(arguments: Any, keywords: Any, step: int) -> None:
        if change == "another":
            lists[0][0] = arguments[0]
        elif change == "more":
            lists[0].append(arguments[0])

    with before(gpt2, "transformer.h.0", give), before(gpt2, "transformer.ln_f", fill):
        run = generate(gpt2)
    blocks = [call for call in run.calls if call.path == "transformer.h.0"]
    assert {(call.inputs or "").endswith("note=[tensor]}") for call in blocks} == {True}
    for call in blocks:
        leaves = {leaf.at: leaf.summary for leaf in call.leaves}
        assert leaves["in.note[0]"] is leaves["in.hidden_states"]


@pytest.mark.skipif(nnsight_api.version() < (0, 8), reason="it comes before nnsight's own hook")
def test_modules_called_after_the_last_step_are_recorded(gpt2: Capture) -> None:
    module = nnsight_api.torch_module(gpt2.model)

    def more(_: Any, __: Any, output: Any) -> None:
        module.get_submodule("transformer.ln_f")(torch.ones(1, 1, 64))

    handle = module.register_forward_hook(more)
    try:
        run = generate(gpt2)
    finally:
        handle.remove()
    assert run.calls[-1].path == "transformer.ln_f"
