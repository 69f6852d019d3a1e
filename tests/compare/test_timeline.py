"""The values of a run in order of time, with the module and the inputs that made each."""

from __future__ import annotations

import pytest
from builders import Forward, make_call, make_forward, make_summary

from pytest_nnsight.compare.drift import leaf_label
from pytest_nnsight.compare.timeline import Value, timeline
from pytest_nnsight.run import ROOT, Call, Leaf, Summary

LAYER = "model.layers.0"


def label(value: Value) -> str:
    return leaf_label(value.call, value.leaf)


def by_label(calls: tuple[Call, ...]) -> dict[str, Value]:
    return {label(value): value for value in timeline(calls)}


def input_labels(calls: tuple[Call, ...], name: str) -> list[str]:
    """Return the labels of the values that a value was computed from."""
    values = timeline(calls)
    value = next(value for value in values if label(value) == name)
    return [label(values[index]) for index in value.fed_by]


def call(path: str, inputs: dict[str, Summary], output: Summary, visit: int = 0) -> Call:
    leaves = (*(Leaf(at, summary) for at, summary in inputs.items()), Leaf("out", output))
    return make_call(path, visit=visit, leaves=leaves, inputs="{0=tensor}")


def test_values_are_in_the_order_in_which_they_were_computed() -> None:
    """The builder lists its labels in the order in which it makes the values."""
    forward = Forward()
    hidden = forward.new("model.embed_tokens")
    for index in range(2):
        hidden = forward.layer(f"model.layers.{index}", hidden)
    entered, *made = [label(value) for value in timeline(forward.calls)]
    assert [entered, *made] == [f"{LAYER} in.0", *forward.labels[1:]]


def test_a_tensor_at_several_locations_is_one_value_named_by_the_first() -> None:
    calls = make_forward(layers=2)
    names = [label(value) for value in timeline(calls)]
    assert len(names) == len(set(names))
    tensors = {id(leaf.summary) for call in calls for leaf in call.leaves}
    assert len(names) == len(tensors) == 2 + 2 * 12 + 2
    assert f"{LAYER}.mlp.down_proj" in names
    assert not {f"{LAYER}.mlp", f"{LAYER}.mlp in.0", f"{ROOT} out.logits"} & {*names}


@pytest.mark.parametrize(
    ("name", "where"),
    [
        (f"{ROOT} in.input_ids", ROOT),
        ("model.embed_tokens", "model.embed_tokens"),
        (f"{LAYER}.self_attn.q_proj", f"{LAYER}.self_attn.q_proj"),
        (f"{LAYER}.self_attn.o_proj in.0", f"{LAYER}.self_attn"),
        (f"{LAYER}.post_attention_layernorm in.0", LAYER),
        (f"{LAYER}.mlp.down_proj in.0", f"{LAYER}.mlp"),
        (LAYER, LAYER),
        ("lm_head", "lm_head"),
    ],
)
def test_a_value_belongs_to_the_module_whose_code_computed_it(name: str, where: str) -> None:
    assert by_label(make_forward())[name].module == where


@pytest.mark.parametrize(
    ("name", "fed_by"),
    [
        ("lm_head", ["model.norm"]),
        (f"{LAYER}.mlp.act_fn", [f"{LAYER}.mlp.gate_proj"]),
        (
            f"{LAYER}.mlp.down_proj in.0",
            [
                f"{LAYER}.post_attention_layernorm",
                *(f"{LAYER}.mlp.{name}" for name in ("gate_proj", "act_fn", "up_proj")),
            ],
        ),
        (
            f"{LAYER}.self_attn.o_proj in.0",
            [f"{LAYER}.input_layernorm", f"{LAYER}.self_attn.q_proj"],
        ),
    ],
)
def test_a_value_depends_on_the_earlier_values_of_its_module(name: str, fed_by: list[str]) -> None:
    assert input_labels(make_forward(), name) == fed_by


def test_the_output_of_a_module_with_children_depends_on_all_values_inside() -> None:
    fed = input_labels(make_forward(), LAYER)
    assert fed[0] == "model.embed_tokens"
    assert fed[1:] == [name for name in map(label, timeline(make_forward())) if LAYER in name][:-1]


def test_inputs_of_the_model_depend_on_no_value() -> None:
    value = by_label(make_forward())[f"{ROOT} in.input_ids"]
    assert (value.fed_by, value.is_model_input) == ((), True)
    assert not by_label(make_forward())["lm_head"].is_model_input


def test_no_value_depends_on_a_later_one() -> None:
    for index, value in enumerate(timeline(make_forward(layers=3))):
        assert all(at < index for at in value.fed_by)


def test_a_module_that_is_called_twice_in_a_row_has_two_spans() -> None:
    x, a, y, b, z = (make_summary(seed=seed) for seed in range(5))
    calls = (
        call("h.mlp", {"in.0": x}, a),
        call("h", {"in.0": x}, y),
        call("h.mlp", {"in.0": b}, z, visit=1),
        call("h", {"in.0": y}, z, visit=1),
    )
    values = timeline(calls)
    assert [label(v) for v in values] == ["h in.0", "h.mlp", "h", "h.mlp#1 in.0", "h.mlp#1"]
    assert [v.module for v in values] == [ROOT, "h.mlp", "h", "h", "h.mlp"]
    assert [values[i].call.label for i in values[3].fed_by] == ["h"]


def test_steps_of_a_generation_follow_each_other() -> None:
    steps = [make_forward(visit=visit, shape=(1, 1, 64)) for visit in range(3)]
    values = timeline([call for step in steps for call in step])
    visits = [value.call.visit for value in values]
    assert visits == sorted(visits)
    assert visits.count(0) == visits.count(1) == visits.count(2)
    assert all(values[i].call.visit == v.call.visit for v in values for i in v.fed_by)


def test_only_the_path_itself_or_what_is_below_it_is_inside() -> None:
    """``h.1`` is not inside ``h.10``."""
    x, y, z = (make_summary(seed=seed) for seed in range(3))
    values = timeline((call("h.10", {"in.0": x}, y), call("h.1", {"in.0": y}, z)))
    assert [value.module for value in values] == [ROOT, "h.10", "h.1"]


def test_without_inputs_a_value_depends_on_the_one_before_it() -> None:
    calls = tuple(
        call._replace(inputs=None, leaves=tuple(leaf for leaf in call.leaves if leaf.at == "out"))
        for call in make_forward()
    )
    norm = f"{LAYER}.post_attention_layernorm"
    assert input_labels(calls, norm) == [f"{LAYER}.self_attn.o_proj"]
    assert f"{LAYER}.mlp.down_proj" in input_labels(calls, LAYER)
    assert by_label(calls)["model.embed_tokens"].fed_by == ()


def test_inputs_of_chosen_modules_come_from_the_model_if_no_parent_was_chosen() -> None:
    calls = tuple(call for call in make_forward() if call.path.endswith(".mlp"))
    values = timeline(calls)
    assert [label(value) for value in values] == [
        f"{LAYER}.mlp in.0",
        f"{LAYER}.mlp",
        "model.layers.1.mlp in.0",
        "model.layers.1.mlp",
    ]
    assert [value.module for value in values] == [
        ROOT,
        f"{LAYER}.mlp",
        ROOT,
        "model.layers.1.mlp",
    ]


def test_inputs_of_chosen_modules_come_from_a_chosen_parent() -> None:
    chosen = ("model.layers.0", f"{LAYER}.mlp")
    values = timeline([call for call in make_forward() if call.path in chosen])
    assert [(label(value), value.module) for value in values] == [
        (f"{LAYER} in.0", ROOT),
        (f"{LAYER}.mlp in.0", LAYER),
        (f"{LAYER}.mlp", f"{LAYER}.mlp"),
        (LAYER, LAYER),
    ]
    assert [label(values[i]) for i in values[1].fed_by] == [f"{LAYER} in.0"]


def test_a_value_knows_all_locations_where_it_is_seen() -> None:
    calls = make_forward()
    values = by_label(calls)
    leaves = [(i, leaf.at) for i, call in enumerate(calls) for leaf in call.leaves]
    assert sorted(at for value in values.values() for at in value.keys) == sorted(leaves)
    assert [calls[i].label for i, _ in values["lm_head"].keys] == ["lm_head", ROOT]
    assert values["lm_head"].keys[0] == (values["lm_head"].position, "out")


def test_a_tensor_that_is_two_tensors_in_the_other_run_is_two_values() -> None:
    """The other run changed it in between, for example in an intervention."""
    x, y = make_summary(), make_summary(seed=1)
    calls = (call("h.mlp.drop", {"in.0": x}, y), call("h.mlp", {"in.0": x}, y))
    partners = {(0, "in.0"): 1, (0, "out"): 2, (1, "in.0"): 1, (1, "out"): 2}
    names = ["h.mlp in.0", "h.mlp.drop"]
    assert [label(value) for value in timeline(calls, partners)] == names
    values = timeline(calls, {**partners, (1, "out"): 3})
    assert [label(value) for value in values] == [*names, "h.mlp"]
    assert [value.module for value in values] == [ROOT, "h.mlp.drop", "h.mlp"]
    assert values[2].fed_by == (0, 1)


def test_two_tensors_that_are_one_in_the_other_run_are_two_values() -> None:
    calls = (call("a", {}, make_summary()), call("b", {}, make_summary(seed=1)))
    assert len(timeline(calls, {(0, "out"): 1, (1, "out"): 1})) == 2


def test_an_earlier_value_that_enters_a_call_is_not_inside_it() -> None:
    """In a generation, an encoder runs before the model itself is called."""
    ids, hidden, encoded, decoded, logits = (make_summary(seed=seed) for seed in range(5))
    calls = (
        call("encoder.block", {"in.0": ids}, hidden),
        call("encoder", {"in.0": ids}, encoded),
        call("decoder", {"in.0": decoded}, logits),
        call(ROOT, {"in.encoder_outputs": encoded}, logits),
    )
    values = timeline(calls)
    assert [(label(value), value.module) for value in values] == [
        ("encoder in.0", ROOT),
        ("encoder.block", "encoder.block"),
        ("encoder", "encoder"),
        ("decoder in.0", ROOT),
        ("decoder", "decoder"),
    ]
    assert [label(values[i]) for i in values[3].fed_by] == ["encoder"]


def test_a_child_that_returns_its_input_is_still_inside_its_parent() -> None:
    """Like a dropout in eval mode."""
    x, y = make_summary(), make_summary(seed=1)
    calls = (call("h.dropout", {"in.0": x}, x), call("h", {"in.0": x}, y))
    assert [label(value) for value in timeline(calls)] == ["h in.0", "h"]


def test_calls_without_tensors_have_no_values() -> None:
    assert timeline(()) == []
    assert timeline((make_call(leaves=()),)) == []
