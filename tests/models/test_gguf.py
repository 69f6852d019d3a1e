"""A ``.gguf`` file is a model spec; it computes what the folder made of it computes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prepare import gguf_file

TEST = """
def test_trace(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello there", modules="model.layers.*") == nnsight_golden
"""


def test_a_gguf_file_equals_the_folder_made_of_it(
    pytester: pytest.Pytester, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = request.config.getoption("nnsight_model") or []
    folder = next((m.partition("=")[2] for m in models if m.startswith("smollm2=")), None)
    if folder is None:
        pytest.skip("needs --nnsight-model smollm2=FOLDER (make test-trained)")
    for name in [name for name in os.environ if name.startswith("PYTEST_")] + ["CI"]:
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(test_it=TEST)
    written = pytester.runpytest_subprocess(
        f"--nnsight-model=same={gguf_file()}", "--snapshot-update", timeout=300
    )
    written.assert_outcomes(passed=1)
    assert (
        str(Path(gguf_file()).parent)
        not in next((pytester.path / "golden").rglob("test_trace.json")).read_text()
    )
    checked = pytester.runpytest_subprocess(f"--nnsight-model=same={folder}", timeout=300)
    checked.assert_outcomes(passed=1)
