"""A user's mistake prints one line: what is wrong, where, what to do. No golden is lost."""

from __future__ import annotations

import os

import pytest
from project import EXAMPLES, TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

WRONG = EXAMPLES / "wrong_arguments.py"
LINES = {
    "glob": "modules='transformer.g.*' matches no module; nearest: transformer.h*(test_it.py:7)",
    "keep": "keep='transformer.wtf' matches no module; nearest: transformer.wt*",
    "empty": "prompt is empty; give at least one character, or token ids (test_it.py:15)",
    "empty_in_list": "prompt 1 is empty; give at least one character, or token ids *",
    "no_ids": "prompt is empty; give at least one token id *",
    "number": "a prompt is text, a list of texts, chat messages, token ids *, got float *",
    "too_long": "prompt has 600 tokens, the model takes 512 (max_position_embeddings); *",
    "too_long_to_generate": "prompt of 500 tokens and 20 new ones exceed the model's 512 *",
    "no_new_tokens": "max_new_tokens must be a whole number from 1 on, got 0 *",
    "not_kept": "transformer.wte was summarised but not kept; capture with keep=*",
    "not_called": "transformer.wtf is not in this run; nearest: transformer.wte*",
    "no_text": "run.text needs nnsight_capture.generate, this run is a trace *",
    "compare_list": "golden: a golden compares a run or a dict of tensors, got list; *",
    "compare_object": "golden: name[0] is a object; a golden takes tensors, arrays, numbers, *",
}


def test_each_wrong_argument_in_a_test_prints_one_line(project: Project) -> None:
    project.copy_example(WRONG)
    path = project.path / "test_it.py"
    path.write_text(path.read_text().replace("tolerence", "tolerance"))
    result = project.run(*TINY, "-rf")
    result.assert_outcomes(failed=14, passed=1)
    text = "\n".join(result.outlines)
    assert "Traceback" not in text
    assert "During handling" not in text
    for line in LINES.values():
        result.stdout.fnmatch_lines([f"*{line.replace('[', '[[]')}"])


def test_a_wrong_marker_names_the_nearest(project: Project) -> None:
    project.copy_example(WRONG)
    result = project.run(*TINY)
    result.stdout.fnmatch_lines(
        ["@pytest.mark.nnsight has no argument 'tolerence'; nearest: tolerance*"]
    )
    assert "Traceback" not in "\n".join(result.outlines)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--nnsight-model", "tiny:gtp2"], "there is no built-in model 'tiny:gtp2'; *tiny:gpt2*"),
        (["--nnsight-model", "./nowhere"], "there is no folder ./nowhere; *"),
        (["--nnsight-model", "no.gguf"], "there is no file no.gguf; *"),
        (["--nnsight-model", "what is it"], "'what is it' is not a model spec; *"),
        (["--nnsight-model", "../x=gpt2"], "model name '../x' in '../x=gpt2' cannot be *"),
        ([*TINY, *TINY], "two models share the golden folder 'tiny-gpt2'; name them: *"),
        ([*TINY, "--nnsight-dtype", "float23"], "dtype 'float23' is unknown; nearest: float*"),
        ([*TINY, "--nnsight-attn", "egar"], "attention 'egar' is unknown; nearest: eager*"),
        ([*TINY, "--nnsight-tolerance", "2"], "--nnsight-tolerance: '2' is not valid: *"),
        ([*TINY, "--nnsight-golden-dir", "../up"], "--nnsight-golden-dir '../up' is outside *"),
        (["--nnsight-suite"], "--nnsight-suite needs a model; *"),
    ],
)
def test_a_wrong_option_ends_before_anything_runs(
    project: Project, arguments: list[str], line: str
) -> None:
    project.test_file("def test_nothing(): pass\n")
    result = project.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {line}"])
    assert "Traceback" not in "\n".join(result.errlines)


GOLDEN_TEST = """
def test_trace(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
"""


def test_a_damaged_newer_or_foreign_golden_is_named(project: Project) -> None:
    """The message names the golden and what to do, and ``--snapshot-update`` repairs it."""
    project.test_file(GOLDEN_TEST)
    project.write_goldens(*TINY, passed=1)
    golden = project.golden("test_it/test_trace")
    complete = golden.read_text()
    foreign = complete.replace("transformer.", "encoder.").replace("<model>", "encoder")
    for text, line in (
        (complete[:5000], "golden: golden/*/test_trace.json is not whole JSON (truncated*"),
        (
            complete.replace('"format": 1', '"format": 2', 1),
            "golden: golden/*/test_trace.json has format 2, this version reads up to 1; upgrade *",
        ),
        (
            foreign.replace("GPT2LMHeadModel", "BertModel").replace("lm_head", "pooler"),
            "golden: golden/*/test_trace.json is the golden of another model: BertModel *",
        ),
        ("{}", "golden: golden/*/test_trace.json is not a golden of pytest-nnsight: *"),
    ):
        golden.write_text(text)
        result = project.run(*TINY)
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines([f"E*{line}"])
        assert golden.read_text() == text
    project.write_goldens(*TINY, passed=1)
    assert golden.read_text() == complete


def test_a_golden_folder_that_cannot_be_written(project: Project) -> None:
    """Root can write to any folder, so for root a file replaces the folder."""
    project.test_file(GOLDEN_TEST)
    folder = project.path / "golden"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o500)
    else:
        (folder / "tiny-gpt2").write_text("in the way")
    result = project.run(*TINY, "--snapshot-update")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["cannot write golden *; make its folder writable, *"])
    assert "Traceback" not in "\n".join(result.outlines)
