"""A ``.gguf`` file is a model spec; its model computes the same as the converted folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from prepare import gguf_file

pytestmark = pytest.mark.usefixtures("warm")

TEST = """
def test_trace(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello there", modules="model.layers.*") == nnsight_golden
"""


def test_a_gguf_file_equals_its_converted_folder(user: pytest.Pytester, smollm2: Path) -> None:
    user.makepyfile(test_it=TEST)
    written = user.runpytest_subprocess(
        f"--nnsight-model=same={gguf_file()}", "--snapshot-update", timeout=300
    )
    written.assert_outcomes(passed=1)
    assert (
        str(Path(gguf_file()).parent)
        not in next((user.path / "golden").rglob("test_trace.json")).read_text()
    )
    checked = user.runpytest_subprocess(f"--nnsight-model=same={smollm2}", timeout=300)
    checked.assert_outcomes(passed=1)
