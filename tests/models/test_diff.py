"""In ``pytest-nnsight diff`` of the trained model, another dtype is noise, int8 rounding drift."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nnsight import cli

MODULE = "model.layers.12.mlp.down_proj"
PROMPT = "trace of 'The Eiffel Tower is in the city of':"


def diff(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    code = cli.main(["diff", *map(str, arguments)])
    return code, capfd.readouterr().out.splitlines()


@pytest.fixture
def rounded(smollm2: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the model with one matrix rounded to int8, with one scale for each row."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "rounded"
    shutil.copytree(smollm2, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = load_file(smollm2 / "model.safetensors")
    matrix = tensors[f"{MODULE}.weight"]
    scale = matrix.abs().amax(dim=1, keepdim=True) / 127
    tensors[f"{MODULE}.weight"] = (matrix / scale).round() * scale
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    yield folder
    shutil.rmtree(folder)  # half a gigabyte


@pytest.mark.parametrize(
    ("setting", "start", "allowed"),
    [
        ("dtype=bfloat16", r"model\.embed_tokens", r"0\.06"),
        ("attn=eager", r"model\.layers\.0\.self_attn\.o_proj", "1e-5"),
    ],
)
def test_another_dtype_or_attention_is_noise(
    smollm2: Path, capfd: pytest.CaptureFixture[str], setting: str, start: str, allowed: str
) -> None:
    code, lines = diff(capfd, smollm2, smollm2, f"--second={setting}")
    assert code == 0
    expected = (
        rf"  within noise: \d+ of 396 calls, from {start} on \(largest \S+, allowed {allowed}\)"
    )
    assert lines[0] == PROMPT
    assert re.fullmatch(expected, lines[1])
    assert len(lines) == 2


def test_one_matrix_rounded_to_int8_is_named(
    smollm2: Path, rounded: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, lines = diff(capfd, smollm2, rounded)
    assert code == 1
    assert lines[0] == PROMPT
    assert re.fullmatch(
        rf"  drift: \d+ of 396 calls, starts at {MODULE} \(rel 8\.\de-3, allowed 1e-5\); "
        rf"cause: weights \(1 of 272 parameters differ: {MODULE}\.weight\)",
        lines[1],
    )
