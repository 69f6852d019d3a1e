"""The path of a golden, from the node id of its test."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_nnsight.golden.storage import file_name
from pytest_nnsight.golden.unused import belongs_to
from pytest_nnsight.plugin.golden_path import NodeLocation, golden_path


def path_of(nodeid: str, model: str | None = None, *siblings: str) -> str:
    file, _, name = nodeid.partition("::")
    return golden_path(NodeLocation(file, name), model, siblings)


def class_of(name: str) -> str:
    return name.partition("[")[0].rpartition("::")[0]


@pytest.mark.parametrize(
    ("nodeid", "model", "path"),
    [
        ("tests/test_a.py::test_b", None, "tests/test_a/test_b"),
        ("test_a.py::TestC::test_b[x-1]", None, "test_a/TestC.test_b[x-1]"),
        ("test_a.py::test_b[gpt2]", None, "test_a/test_b[gpt2]"),
        ("test_a.py::test_b[gpt2]", "gpt2", "test_a/test_b"),
        ("test_a.py::test_b[tiny-gpt2]", "tiny-gpt2", "test_a/test_b"),
        ("test_a.py::test_b[tiny-gpt2-x]", "tiny-gpt2", "test_a/test_b[x]"),
        ("test_a.py::test_b[x-tiny-gpt2]", "tiny-gpt2", "test_a/test_b[x]"),
        ("test_a.py::test_b[x-tiny-gpt2-y]", "tiny-gpt2", "test_a/test_b[x-y]"),
        ("test_a.py::test_b[gpt2-gpt2]", "gpt2", "test_a/test_b[gpt2]"),
        ("test_a.py::test_b[mygpt2-gpt2]", "gpt2", "test_a/test_b[mygpt2]"),
        ("test_a.py::test_b[a/b-gpt2]", "gpt2", "test_a/test_b[a_b]"),
        ("test_a.py::test_b[a::b]", None, "test_a/test_b[a.b]"),
        ("test_a.py::test_b[]", None, "test_a/test_b"),
        ("nnsight-suite::test_short_prompt[gpt2]", "gpt2", "suite/test_short_prompt"),
        ("pkg/mlp.py::pkg.mlp.double", None, "pkg/mlp/pkg.mlp.double"),
        ("docs/guide.rst::guide.rst", None, "docs/guide/guide.rst"),
    ],
)
def test_a_path_is_like_the_node_id(nodeid: str, model: str | None, path: str) -> None:
    assert path_of(nodeid, model) == path


@pytest.mark.parametrize(
    ("nodeid", "path"),
    [
        ("../other/test_a.py::test_b", "test_a-d36ec18f/test_b"),
        ("/other/test_a.py::test_b", "test_a-c4ff1e4d/test_b"),
        ("test_a.yaml::test_b", "test_a-104772c2/test_b"),
        ("suite.py::test_short_prompt", "suite-849b3b57/test_short_prompt"),
        ("test_a.json.py::test_b", "test_a.json-5708e33d/test_b"),
        ("test_a.py::test_a::test_b", "test_a/test_a.test_b-e4eab0e4"),
        ("test_a.py::other.test_b", "test_a/other.test_b-5eebb72f"),
    ],
)
def test_a_hash_is_added_where_another_test_could_have_the_path(nodeid: str, path: str) -> None:
    assert path_of(nodeid) == path


def test_the_test_whose_name_was_changed_gets_a_hash() -> None:
    names = ["test_b[x/y]", "test_b[x_y]", "test_b[z/y]"]
    paths = [path_of(f"test_a.py::{name}", None, *names) for name in names]
    assert paths == ["test_a/test_b[x_y]-f589cdf4", "test_a/test_b[x_y]", "test_a/test_b[z_y]"]


def test_two_tests_whose_names_were_changed_get_different_hashes() -> None:
    names = ["test_b[x/y_z]", "test_b[x_y/z]"]
    paths = {path_of(f"test_a.py::{name}", None, *names) for name in names}
    assert len(paths) == 2
    assert "test_a/test_b[x_y_z]" not in paths


@pytest.mark.parametrize("ids", [["x/y", "x_y"], ["x::y", "x.y"], ["", "a"]])
def test_one_model_and_several_have_the_same_paths(ids: list[str]) -> None:
    for position in (0, 1):
        names, names_with_model = (
            [f"test_b[f-{i}]" for i in ids],
            [f"test_b[{f'gpt2-f-{i}' if position == 0 else f'f-gpt2-{i}'}]" for i in ids],
        )
        for one, other in zip(names, names_with_model, strict=True):
            path = path_of(f"test_a.py::{one}", None, *names)
            assert path_of(f"test_a.py::{other}", "gpt2", *names_with_model) == path


MODEL = "m"
WORDS = st.text("abm_/.-:[] ", max_size=4)
IDS = st.lists(WORDS, max_size=2).map("-".join)
NAMES = st.one_of(
    st.lists(st.sampled_from(["a", "b", "a.b", "", "."]), min_size=1, max_size=3).map("::".join),
    st.sampled_from(["a", "a::b", "a.b"]).flatmap(lambda n: IDS.map(lambda i: f"{n}[{i}]")),
    st.sampled_from(["a", "a.b"]).flatmap(
        lambda n: st.tuples(IDS, IDS).map(
            lambda i: f"{n}[{'-'.join(filter(None, [i[0], MODEL, i[1]]))}]"
        )
    ),
)
FILES = st.sampled_from(
    [
        *("a.py", "a/a.py", "a/b.py", "a.b.py", "a.json.py", "a/a.json.py", "suite.py"),
        *("a.yaml", "a.rst", "a/b.rst", "b", "", ".", "nnsight-suite"),
        *("..", "../a.py", "../b/a.py", "/a.py"),
    ]
)
MODELS = st.sampled_from([None, MODEL])


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(FILES, st.sets(NAMES, min_size=1, max_size=8), min_size=1), MODELS)
def test_different_node_ids_have_different_files(
    project: dict[str, set[str]], model: str | None
) -> None:
    seen: dict[str, str] = {}
    for file, names in project.items():
        for name in names:
            test_path = golden_path(NodeLocation(file, name), model, names)
            alone = [other for other in names if class_of(other) == class_of(name)]
            assert golden_path(NodeLocation(file, name), model, alone) == test_path
            folder, _, test = test_path.rpartition("/")
            path = f"{folder}/{file_name(test)}.json"
            assert seen.setdefault(path, f"{file}::{name}") == f"{file}::{name}"
            assert not any(other.startswith(f"{path}/") for other in seen)
            assert ".." not in folder.split("/")
            assert not folder.startswith("/")


@settings(deadline=None)
@given(NAMES, st.sampled_from(["", ".1", "[again]", "[a b]"]), st.integers(0, 170))
def test_prune_knows_the_files_of_a_test(name: str, suffix: str, extra_length: int) -> None:
    test = golden_path(NodeLocation("a.py", "x" * extra_length + name)).rpartition("/")[2]
    assert belongs_to(file_name(test + suffix), test)


def test_prune_distinguishes_a_name_with_a_hash_from_one_without() -> None:
    assert not belongs_to("test_b[x_y]-f589cdf4", "test_b[x_y]")
    assert not belongs_to("test_b[x_y]", "test_b[x_y]-f589cdf4")
    assert belongs_to("test_b[x_y]-f589cdf4", "test_b[x_y]-f589cdf4")
