"""State that is not in checkpoints is restored after each test, with a note; the suite tests it."""

from __future__ import annotations

import pytest
from project import Project

pytestmark = pytest.mark.usefixtures("warm")

LLAMA = ("--nnsight-model", "tiny:llama")
# Libraries had such bugs: a long prompt rescales the frequencies for all later prompts.
STALE = """
import pytest
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding as Rotary

original = Rotary.forward

def stale(self, x, position_ids, **settings):
    if position_ids.max() > 60:
        self.inv_freq.mul_(0.5)
        self.max_seq_len_cached = 999
    return original(self, x, position_ids, **settings)

Rotary.forward = stale
"""
TESTS = """
LONG = list(range(80))

@pytest.mark.parametrize("number", range(2))
def test_long_then_short(nnsight_capture, nnsight_golden, number):
    nnsight_capture.trace(LONG)
    nnsight_capture.trace("Hello")

def test_short(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
"""


def test_a_stale_buffer_is_restored_with_a_note(project: Project) -> None:
    project.test_file(TESTS)
    project.write_goldens(*LLAMA, passed=3)
    project.test_file(STALE, "conftest.py")
    result = project.run(*LLAMA)
    result.assert_outcomes(passed=3)
    name = "test_it.py::test_long_then_short"
    state = "model.rotary_emb.inv_freq, model.rotary_emb.max_seq_len_cached"
    result.stdout.fnmatch_lines(
        [
            "notes (they do not fail a test):",
            f"  {name}[[]0[]]: unsaved state changed: {state}, restored",
            f"  {name}[[]1[]]: unsaved state changed: {state}, restored",
        ]
    )
    assert "notes, which" not in project.run(*LLAMA, "-k", "test_short").stdout.str()


def test_the_suite_fails_on_a_stale_buffer(project: Project) -> None:
    project.run(*LLAMA, "--nnsight-suite", "--snapshot-update").assert_outcomes(passed=5)
    project.test_file(STALE, "conftest.py")
    result = project.run(*LLAMA, "--nnsight-suite", "-k", "short or stale")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.re_match_lines(
        [
            r"a short prompt differs after a long one, drift: \d+ of \d+ calls, "
            r"starts at model\.rotary_emb out\[0\] \(rel "
        ]
    )


def test_after_writing_to_a_large_unsaved_buffer_the_model_is_loaded_again(
    project: Project,
) -> None:
    project.test_file(
        """
def test_replaces(nnsight_model):
    module = nnsight_model._module
    module.register_buffer("cache", torch.zeros(2**20 + 1), persistent=False)

@pytest.fixture(scope="module")
def cached(nnsight_model):
    nnsight_model._module.register_buffer("cache", torch.zeros(2**20 + 1), persistent=False)

def test_writes(cached, nnsight_model):
    nnsight_model._module.cache[0] = 1

def test_next(nnsight_model):
    assert not hasattr(nnsight_model._module, "cache") or not nnsight_model._module.cache.any()
"""
    )
    result = project.run(*LLAMA)
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(
        ["left on the model: unsaved buffers changed: cache; it is loaded again"]
    )
