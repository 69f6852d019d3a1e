"""The value of a module -> a line of structure and its tensors."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

from pytest_nnsight.capture.values import describe, map_tensors


@dataclass
class Pair:
    left: Any
    right: Any = None


class Named(NamedTuple):
    x: Any
    y: Any


T = torch.tensor([1.0, 2.0])
DESCRIPTIONS = {
    "tensor": (T, "tensor", ["out"]),
    "parameter": (torch.nn.Parameter(T.clone()), "tensor", ["out"]),
    "one-tuple": ((T,), "(tensor,)", ["out[0]"]),
    "tuple": ((T, None), "(tensor, None)", ["out[0]"]),
    "list": ([T, T], "[tensor, tensor]", ["out[0]", "out[1]"]),
    "one-list": ([T], "[tensor]", ["out[0]"]),
    "none": (None, "None", []),
    "plain": ((1, True, "eager"), "(1, True, 'eager')", []),
    "empty": (((), [], {}), "((), [], {})", []),
    "dict": ({"a": T, "b": None}, "{a=tensor, b=None}", ["out.a"]),
    "ordered-dict": (OrderedDict(a=T), "OrderedDict(a=tensor)", ["out.a"]),
    "dataclass": (Pair(T, [T]), "Pair(left=tensor, right=[tensor])", ["out.left", "out.right[0]"]),
    "model-output": (
        CausalLMOutputWithPast(logits=T),
        "CausalLMOutputWithPast(logits=tensor)",
        ["out.logits"],
    ),
    "nested": (
        (T, [BaseModelOutput(T, hidden_states=(T,)), {"k": T}]),
        "(tensor, [BaseModelOutput(last_hidden_state=tensor, hidden_states=(tensor,)), "
        "{k=tensor}])",
        ["out[0]", "out[1][0].last_hidden_state", "out[1][0].hidden_states[0]", "out[1][1].k"],
    ),
    "opaque": ((T, DynamicCache()), "(tensor, DynamicCache)", ["out[0]"]),
    "class": (Pair, "type", []),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_structure_and_places(case: str) -> None:
    value, structure, places = DESCRIPTIONS[case]
    described, tensors = describe(value)
    assert (described, [at for at, _ in tensors]) == (structure, places)


def test_places_hold_their_tensors() -> None:
    first, second = torch.zeros(1), torch.ones(1)
    _, tensors = describe({"a": (first, second)}, "in")
    assert [at for at, _ in tensors] == ["in.a[0]", "in.a[1]"]
    assert tensors[0][1] is first
    assert tensors[1][1] is second


def test_structure_tells_containers_apart() -> None:
    values = (T, (T,), [T], {"0": T}, (T, None), (T, T), Pair(T), BaseModelOutput(T))
    assert len({describe(value)[0] for value in values}) == len(values)


def double(value: Any) -> Any:
    return map_tensors(value, lambda tensor: tensor * 2)


def test_tensor_is_mapped() -> None:
    assert torch.equal(double(T), T * 2)


@pytest.mark.parametrize("value", [None, 1, 1.5, "text", torch.float32])
def test_what_holds_no_tensor_is_kept(value: Any) -> None:
    assert double(value) is value


def test_opaque_object_is_kept() -> None:
    cache = DynamicCache()
    assert double((T, cache))[1] is cache


@pytest.mark.parametrize(
    "case", ["one-tuple", "tuple", "list", "dict", "ordered-dict", "model-output", "nested"]
)
def test_containers_are_kept_and_every_tensor_in_them_is_mapped(case: str) -> None:
    value, structure, places = DESCRIPTIONS[case]
    mapped = double(value)
    described, tensors = describe(mapped)
    assert type(mapped) is type(value)
    assert (described, [at for at, _ in tensors]) == (structure, places)
    assert all(torch.equal(tensor, T * 2) for _, tensor in tensors)


def test_named_tuple_is_kept() -> None:
    mapped = double(Named(T, (T, "y")))
    assert isinstance(mapped, Named)
    assert torch.equal(mapped.x, T * 2)
    assert mapped.y[1] == "y"


def test_containers_are_copied_not_changed() -> None:
    value = {"a": [T]}
    mapped = double(value)
    assert value["a"][0] is T
    assert mapped["a"] is not value["a"]
