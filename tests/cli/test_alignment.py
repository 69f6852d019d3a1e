"""Modules of two trees pair by name, by prefix, or by order."""

from __future__ import annotations

from builders import make_call, make_run, make_summary

from pytest_nnsight.cli.alignment import align
from pytest_nnsight.run import Run

TREE = ("embed", "layers.0.attn.q", "layers.0.attn", "layers.0.mlp", "layers.0", "head")


def run_of(*paths: str, prefix: str = "", shapes: dict[str, int] | None = None) -> Run:
    sizes = shapes or {}
    calls = [
        make_call(prefix + path, make_summary(shape=(1, 3, sizes.get(path, 8)))) for path in paths
    ]
    return make_run(calls=tuple(calls))


def test_modules_of_equal_trees_pair_by_name() -> None:
    alignment = align(run_of(*TREE), run_of(*TREE))
    assert alignment.names == {path: path for path in TREE}
    assert (alignment.only_golden, alignment.only_received) == ((), ())


def test_modules_pair_after_one_prefix_is_replaced_by_another() -> None:
    wrapped = run_of(*TREE, "lora", prefix="base_model.model.")
    alignment = align(run_of(*TREE, prefix="model."), wrapped)
    assert alignment.names["base_model.model.layers.0.mlp"] == "model.layers.0.mlp"
    assert (alignment.only_golden, alignment.only_received) == ((), ("base_model.model.lora",))
    assert [call.path for call in alignment.renamed(wrapped).calls][:2] == [
        "model.embed",
        "model.layers.0.attn.q",
    ]
    digests = {"base_model.model.head.weight": "1", "scale": "2"}
    assert alignment.parameters(digests) == {"model.head.weight": "1", "scale": "2"}


def test_modules_between_pairs_are_paired_in_order_if_their_shapes_are_equal() -> None:
    old = run_of("embed", "block.q", "block.k", "block", "head")
    new = run_of("embed", "block.query", "block.key", "block", "head")
    assert align(old, new).names["block.key"] == "block.k"
    other = run_of("embed", "block.query", "block", "head")
    assert align(old, other).only_received == ("block.query",)
    shaped = run_of("embed", "block.query", "block.key", "block", "head", shapes={"block.key": 4})
    assert align(old, shaped).only_golden == ("block.q", "block.k")
