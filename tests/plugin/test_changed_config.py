"""A changed key of ``config.json`` that changes the model's inputs is named as the cause."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from project import Project

from pytest_nnsight.models import tiny

pytestmark = pytest.mark.usefixtures("warm")

TESTS = """
def test_it(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden

def test_generated(nnsight_capture, nnsight_golden):
    assert nnsight_capture.generate("Hello", max_new_tokens=3) == nnsight_golden
"""


@pytest.fixture(scope="module")
def saved_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny T5 before ``pytester`` starts, which unloads modules that a test imports."""
    folder = tmp_path_factory.mktemp("models") / "t5"
    model, tokenizer = tiny.build("t5", torch.float32, None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_changed_start_token_has_the_cause_config(
    saved_t5: Path, project: Project, first_line: Callable[..., str]
) -> None:
    shutil.copytree(saved_t5, project.path / "t5")
    project.test_file(TESTS)
    options = ("--nnsight-model", "./t5")
    project.run(*options, "--snapshot-update").assert_outcomes(passed=2)
    for name in ("config.json", "generation_config.json"):
        path = project.path / "t5" / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder_start_token_id": 2}))
    result = project.run(*options)
    result.assert_outcomes(failed=2)
    ids = "golden drift: decoder_input_ids 1 values, at 0: 0 -> 1 values, at 0: 2"
    key = "decoder_start_token_id 0 -> 2"
    assert first_line(result, "test_it") == f"{ids}; cause: config ({key})"
    assert first_line(result, "test_generated") == f"{ids}; cause: config (generation {key})"
