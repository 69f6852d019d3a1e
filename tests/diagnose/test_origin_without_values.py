"""A start that is not a drift of values: another prompt, structure or generated token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    Forward,
    drift_from,
    make_call,
    make_generation,
    make_pass,
    make_run,
    make_summary,
    origin_of,
)

from pytest_nnsight.run import Prompt, Run

LAYER = "model.layers.1"


def changed(run: Run, path: str, **changes: Any) -> Run:
    """Return a run in which one call is changed."""
    calls = (call._replace(**changes) if call.path == path else call for call in run.calls)
    return replace(run, calls=tuple(calls))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"module_class": "New"}, "class"), ({"output": "(tensor,)"}, "container")],
)
def test_changed_structure_starts_at_its_call(changes: dict[str, Any], kind: str) -> None:
    found = origin_of(make_pass(), changed(make_pass(), f"{LAYER}.mlp", **changes))
    assert (found.start.kind, found.start.label) == (kind, f"{LAYER}.mlp")
    assert (found.where, found.value) == (f"{LAYER}.mlp", None)


def test_another_container_is_not_the_start_of_a_drift_of_values() -> None:
    received = changed(make_pass(drift_from("lm_head")), f"{LAYER}.mlp", output="(tensor,)")
    assert origin_of(make_pass(), received).where == "lm_head"


def test_another_container_is_not_the_start_of_another_generated_token() -> None:
    golden, received = (make_generation(5, last, margin=0.5) for last in (6, 7))
    found = origin_of(golden, replace(received, calls=(make_call(output="(tensor,)"),)))
    assert (found.start.kind, found.where) == ("ids", "generated")


def test_missing_call_is_the_start() -> None:
    run = make_pass()
    calls = tuple(call for call in run.calls if call.path != f"{LAYER}.mlp.act_fn")
    found = origin_of(run, replace(run, calls=calls))
    assert (found.start.kind, found.where) == ("missing", f"{LAYER}.mlp.act_fn")


@pytest.mark.parametrize("missing", [LAYER, f"{LAYER}.mlp"])
def test_missing_module_is_the_start_for_the_modules_inside_it(missing: str) -> None:
    run = make_pass()
    inside = [call for call in run.calls if f"{call.path}.".startswith(f"{missing}.")]
    calls = tuple(call for call in run.calls if call not in inside)
    found = origin_of(run, replace(run, calls=calls))
    assert len(inside) > 3
    assert (found.start.kind, found.start.label, found.where) == ("missing", missing, missing)


def test_module_of_another_class_is_the_start_for_the_modules_inside_it() -> None:
    run = make_pass()
    received = changed(run, f"{LAYER}.mlp.act_fn", module_class="GELU")
    assert origin_of(run, received).start.label == f"{LAYER}.mlp.act_fn"
    received = changed(received, f"{LAYER}.mlp", module_class="NewMLP")
    assert origin_of(run, received).start.label == f"{LAYER}.mlp"
    received = changed(received, LAYER, output="(tensor,)")
    assert origin_of(run, received).start.label == f"{LAYER}.mlp"
    received = changed(received, LAYER, module_class="NewLayer")
    assert origin_of(run, received).start.label == LAYER


def test_drift_of_values_inside_a_changed_module_stays_the_start() -> None:
    received = changed(make_pass(drift_from("model.embed_tokens")), "model", module_class="New")
    assert origin_of(make_pass(), received).start.label == "model.embed_tokens"


def test_drift_of_values_inside_a_missing_module_stays_the_start() -> None:
    """Its output is the tensor of its last child, which came earlier."""
    run = make_pass(drift_from(f"{LAYER}.mlp.down_proj"))
    calls = tuple(call for call in run.calls if call.path != f"{LAYER}.mlp")
    found = origin_of(make_pass(), replace(run, calls=calls))
    assert (found.start.kind, found.start.label) == ("values", f"{LAYER}.mlp.down_proj")


def test_added_call_is_the_start() -> None:
    run = make_pass()
    calls = list(run.calls)
    calls.insert(1, make_call("model.new_norm"))
    found = origin_of(run, replace(run, calls=tuple(calls)))
    assert (found.start.kind, found.where) == ("added", "model.new_norm")


def test_drift_before_a_changed_structure_is_the_start() -> None:
    start = "model.layers.0.mlp.up_proj"
    received = changed(make_pass(drift_from(start)), LAYER, module_class="New")
    assert origin_of(make_pass(), received).start.label == start


def test_changed_structure_before_a_drift_is_the_start() -> None:
    path = "model.layers.0.mlp.up_proj"
    received = changed(make_pass(drift_from(LAYER)), path, module_class="New")
    found = origin_of(make_pass(), received)
    assert (found.start.kind, found.start.label) == ("class", path)


def test_drift_just_before_an_added_call_is_the_start() -> None:
    """The drift comes first and may be why the call was added."""
    run = make_pass(drift_from("model.embed_tokens"))
    calls = (run.calls[0], make_call("model.new_norm"), *run.calls[1:])
    found = origin_of(make_pass(), replace(run, calls=calls))
    assert found.start.label == "model.embed_tokens"


def test_changed_shape_of_an_input_starts_in_the_calling_module() -> None:
    def run_of(width: int) -> Run:
        forward = Forward()
        hidden = forward.new("model.embed_tokens")
        mixed = make_summary(shape=(1, 7, width))
        leaf = forward.leaf("model.attn.o_proj", "Linear", mixed)
        forward.close("model.attn", "Attention", {"in.0": hidden}, leaf)
        return make_run(*forward.calls)

    found = origin_of(run_of(64), run_of(32))
    assert (found.start.kind, found.start.label) == ("shape", "model.attn.o_proj in.0")
    assert found.where == "model.attn"


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        (Prompt("Hello", ((9,),), generation={"seed": 1}, intervention="f"), "settings"),
        (Prompt("Hello", ((9,),)), "ids"),
        (Prompt("Hello", ((1, 2, 3),), tensors={"attention_mask": ((1, 0, 1),)}), "tensors"),
    ],
)
def test_changed_prompt_comes_before_any_drift(prompt: Prompt, kind: str) -> None:
    mask = {"attention_mask": ((1, 1, 1),)}
    golden = make_pass(prompt=Prompt("Hello", ((1, 2, 3),), tensors=mask))
    found = origin_of(golden, make_pass(drift_from("lm_head"), prompt=prompt))
    assert (found.start.kind, found.where, found.value) == (kind, "prompt", None)


def test_another_kind_of_run_comes_before_all_other_differences() -> None:
    received = make_pass(kind="tensors", prompt=Prompt("Hello", ((9,),), intervention="f"))
    assert origin_of(make_pass(), received).start.kind == "kind"


def test_another_generated_token_comes_last() -> None:
    golden = make_generation(5, 6)
    received = make_generation(5, 7, calls=(make_call(summary=make_summary(noise=1e-2)),))
    assert origin_of(golden, received).start.kind == "values"
    found = origin_of(golden, make_generation(5, 7))
    assert (found.start.label, found.where) == ("generated", "generated")


def test_note_is_not_the_start() -> None:
    golden = make_run(make_call("a", output="(tensor, None)"), make_call("b"))
    received = make_run(
        make_call("a", output="(tensor, tensor)"), make_call("b", make_summary(noise=1e-2))
    )
    assert origin_of(golden, received).start.label == "b"
