"""A step of a generation that is as the one before is taken as a whole: nobody may see that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import pytest
import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture import pattern, recorder
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.capture.form import Form
from pytest_nnsight.capture.pattern import Pattern
from pytest_nnsight.capture.values import describe
from pytest_nnsight.run import Run

PROMPT = "The cat sat"
STEPS = 8


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Tell of each step that was put aside whether it was taken as a whole."""
    seen: list[bool] = []
    plain = Pattern.tensors_of

    def tensors_of(self: Pattern, arrived: Any) -> Any:
        found = plain(self, arrived)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(Pattern, "tensors_of", tensors_of)
    return seen


def generate(capture: Capture, **more: Any) -> Run:
    settings = {"max_new_tokens": STEPS, "min_new_tokens": STEPS}
    return capture.generate(PROMPT, **settings, **more)


def compared(capture: Capture) -> tuple[Run, Run]:
    """Return a run, and one whose values are taken one by one: its tensors are kept."""
    return generate(capture), generate(capture, keep=True)


@contextmanager
def before(capture: Capture, path: str, change: Callable[..., Any]) -> Iterator[list[int]]:
    """Let a function see, and change, what a module is called with; it is told the step.

    Yield what has an item for each call. Before 0.8 nnsight's own hooks come first, or last.
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
    """A model of which it is not known yet whether it changes what it gave."""
    return replace(capture_of("tiny:gpt2"), changing=WeakSet())


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("source", ["tiny:gpt2", "tiny:llama", "tiny:t5"])
def test_a_generation_is_the_same_as_value_by_value(
    capture_of: Callable[..., Capture], taken: list[bool], source: str, attn: str
) -> None:
    run, one_by_one = compared(capture_of(source, attn=attn))
    assert run.calls == one_by_one.calls
    assert run.generated == one_by_one.generated
    assert taken == [True] * (STEPS - 2)  # that of the prompt and the first behind it are not


def test_what_a_module_is_not_asked_for_is_left_out(gpt2: Capture, taken: list[bool]) -> None:
    paths = {call.path for call in generate(gpt2, modules="transformer.h.*", inputs=False).calls}
    assert paths == {"transformer.h.0", "transformer.h.1"}
    assert taken == [True] * (STEPS - 2)
    run, one_by_one = (
        generate(gpt2, modules="**.mlp", keep=keep) for keep in (False, "transformer.h.0")
    )
    assert [c for c in one_by_one.calls if c.path.endswith("mlp")] == [*run.calls]


def test_a_step_that_calls_a_module_more_often_ends_it(gpt2: Capture, taken: list[bool]) -> None:
    """From there on values are taken one by one again."""
    norm = nnsight_api.torch_module(gpt2.model).get_submodule("transformer.ln_f")

    def again(arguments: Any, keywords: Any, step: int) -> None:
        if step == 4:
            norm(arguments[0])

    with before(gpt2, "transformer.h.0", again):
        run, one_by_one = compared(gpt2)
    assert run.calls == one_by_one.calls
    visits = [call.visit for call in run.calls if call.path == "transformer.ln_f"]
    assert visits == [*range(STEPS + 1)]
    assert taken == [True, True, False]


def test_another_module_of_the_same_kind_ends_it(gpt2: Capture, taken: list[bool]) -> None:
    module = nnsight_api.torch_module(gpt2.model)

    def another(arguments: Any, keywords: Any, step: int) -> None:
        module.get_submodule(f"transformer.h.0.ln_{1 if step < 4 else 2}")(arguments[0])

    with before(gpt2, "transformer.ln_f", another):
        run, one_by_one = compared(gpt2)
    assert run.calls == one_by_one.calls
    assert taken == [True, True, False]


def test_steps_that_are_chosen_are_taken_one_by_one(gpt2: Capture, taken: list[bool]) -> None:
    run, one_by_one = (generate(gpt2, steps=[0, 3, 5], keep=keep) for keep in (False, True))
    assert run.calls == one_by_one.calls
    assert {call.visit for call in run.calls} == {0, 3, 5}
    assert not taken


@pytest.mark.parametrize("path", ["transformer.h.0", "transformer.ln_f"])
def test_other_arguments_end_it(gpt2: Capture, taken: list[bool], path: str) -> None:
    """One more, or the same by its name."""

    def change(arguments: Any, keywords: Any, step: int) -> Any:
        if step != 5:
            return None
        if path == "transformer.ln_f":
            return (), {"input": arguments[0]}
        return arguments, {**keywords, "note": "more"}

    with before(gpt2, path, change):
        run, one_by_one = compared(gpt2)
    assert run.calls == one_by_one.calls
    assert taken == [True] * 3 + [False]
    structures = {call.inputs for call in run.calls if call.path == path}
    assert len(structures) == (1 if path == "transformer.ln_f" else 2)


def test_a_tensor_of_every_step_is_measured_once(gpt2: Capture, taken: list[bool]) -> None:
    always: dict[int, torch.Tensor] = {}

    def instead(arguments: Any, keywords: Any, step: int) -> Any:
        tensor = always.setdefault(arguments[0].shape[1], torch.ones_like(arguments[0]))
        return (tensor,), {}

    with before(gpt2, "transformer.h.0.mlp.act", instead):
        run, one_by_one = compared(gpt2)
    assert run.calls == one_by_one.calls
    assert all(taken)
    leaves = [call.leaves[0] for call in run.calls if call.path == "transformer.h.0.mlp.act"]
    assert len({id(leaf.summary) for leaf in leaves[2:]}) == 1


@pytest.mark.parametrize("is_other", [False, True])
def test_what_is_changed_in_place_in_a_late_step_is_recorded_as_it_was(
    fresh: Capture, taken: list[bool], is_other: bool
) -> None:
    """The model is run once more, and from then on its values are copied as they come.

    Also where that step is another one in other ways.
    """

    def by_name(arguments: Any, keywords: Any, step: int) -> Any:
        return ((), {"input": arguments[0]}) if step == 5 and is_other else None

    def double(arguments: Any, keywords: Any, step: int) -> None:
        if step == 5:
            arguments[0].mul_(2)

    def instead(arguments: Any, keywords: Any, step: int) -> Any:
        return ((arguments[0] * 2,), {}) if step == 5 else None

    def outputs(run: Run) -> list[Any]:
        return [leaf for call in run.calls for leaf in call.leaves if leaf.at.startswith("out")]

    path, end = "transformer.h.1.mlp.act", "transformer.ln_f"
    with before(fresh, path, instead), before(fresh, end, by_name):
        expected = generate(fresh)
    del taken[:]
    with before(fresh, path, double) as calls, before(fresh, end, by_name):
        run = generate(fresh)
    assert outputs(run) == outputs(expected)
    assert (len(calls), len(taken)) == (2 * STEPS, 4 if is_other else STEPS - 2)


def test_what_is_changed_before_it_arrives_is_taken_one_by_one(
    gpt2: Capture, taken: list[bool]
) -> None:
    """It could not be told from what is changed behind that."""

    def double(arguments: Any, keywords: Any, step: int) -> Any:
        return (arguments[0].clone().mul_(2),), {}

    with before(gpt2, "transformer.h.1.mlp.act", double) as calls:
        run, one_by_one = compared(gpt2)
    assert run.calls == one_by_one.calls
    assert (taken, len(calls)) == ([], 2 * STEPS)


@pytest.mark.parametrize("change", ["another", "more", "none"])
def test_a_list_that_is_filled_later_is_recorded_as_it_arrived(
    gpt2: Capture, taken: list[bool], change: str
) -> None:
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
        run, one_by_one = compared(gpt2)
    assert run.calls == one_by_one.calls
    assert taken == ([True] * (STEPS - 2) if change == "none" else [])


@pytest.mark.parametrize("most", [100_000, 150_000])
def test_large_steps_do_not_wait_for_their_end(
    gpt2: Capture, taken: list[bool], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Without a cache for keys and values each step is larger than the one before."""
    for module in (pattern, recorder):
        monkeypatch.setattr(module, "MOST_WAITING", most)
    run, one_by_one = (generate(gpt2, keep=keep, use_cache=False) for keep in (False, True))
    assert run.calls == one_by_one.calls
    assert len(taken) == (0 if most == 100_000 else 3)


@pytest.mark.skipif(nnsight_api.version() < (0, 8), reason="it comes before nnsight's own hook")
def test_what_comes_behind_the_last_step_is_recorded(gpt2: Capture, taken: list[bool]) -> None:
    module = nnsight_api.torch_module(gpt2.model)

    def more(_: Any, __: Any, output: Any) -> None:
        module.get_submodule("transformer.ln_f")(torch.ones(1, 1, 64))

    handle = module.register_forward_hook(more)
    try:
        run, one_by_one = compared(gpt2)
    finally:
        handle.remove()
    assert run.calls == one_by_one.calls
    assert run.calls[-1].path == "transformer.ln_f"
    assert taken == [True] * (STEPS - 2)


ONE = torch.zeros(2)


@pytest.mark.parametrize(
    ("value", "same", "other"),
    [
        (ONE, [torch.ones(3, 4)], [None, (ONE,), torch.nn.Parameter(ONE)]),
        ((ONE, None), [(ONE, None)], [(ONE,), [ONE, None], (ONE, 1), (None, ONE), (ONE, ONE)]),
        ({"a": ONE, "b": 1}, [{"a": ONE, "b": 1}], [{"b": 1, "a": ONE}, {"a": ONE, "b": 2}, {}]),
        ({"a": 1}, [{"a": 1}], [{"a": True}, {"a": "1"}, {"a": 1.0}, {"a": ONE}, {"c": 1}]),
        ([("x", ONE)], [[("x", ONE)]], [[("y", ONE)], [("x", ONE), ONE], [["x", ONE]]]),
        (
            ((ONE,), {}),
            [((ONE,), {})],
            [((ONE,), {"a": 1}), ((ONE, ONE), {}), ((1,), {}), ((), {})],
        ),
        ({"a": 1.5, "b": object}, [{"a": 2.5, "b": object}], [{"a": 1, "b": object}]),
    ],
)
def test_the_form_of_a_value_tells_its_structure(value: Any, same: Any, other: Any) -> None:
    """Wherever the structure differs in a word, so does the form."""
    form = Form.of(value)
    assert form is not None
    for each in same:
        found: list[Any] = []
        assert form.collect(each, found)
        assert describe(each)[0] == describe(value)[0]
        assert [*map(id, found)] == [id(tensor) for _, tensor in describe(each)[1]]
    for each in other:
        assert not form.collect(each, []), each


def test_what_has_no_form() -> None:
    """Those are described, and compared as text."""
    output = SomeOutput(torch.zeros(2))
    assert [Form.of(each) for each in (output, (ONE, output), {"a": output}, None, 1)] == [None] * 5


@dataclass
class SomeOutput:
    logits: torch.Tensor
