"""A test's node id -> where its golden lies."""

from __future__ import annotations

import pytest

from pytest_nnsight.binding import golden_path


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
        ("../other/test_a.py::test_b", None, "test_a/test_b"),
        ("nnsight-suite::test_short_prompt[gpt2]", "gpt2", "suite/test_short_prompt"),
    ],
)
def test_the_models_name_is_left_out_once(nodeid: str, model: str | None, path: str) -> None:
    assert golden_path(nodeid, model) == path
