"""``pytest-nnsight show`` prints a golden, and does not need torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = "golden/tiny-gpt2/cpu-float32/suite/test_greedy_generation.json"
WITHOUT_TORCH = """
import sys
for name in ("torch", "transformers", "nnsight"):
    sys.modules[name] = None
from pytest_nnsight.cli import main
sys.exit(main(sys.argv[1:]))
"""


def show(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "show", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_show_prints_model_prompt_tokens_and_calls() -> None:
    result = show(GOLDEN)
    lines = result.stdout.splitlines()
    assert result.returncode == 0
    assert lines[0] == "generate of tiny:gpt2 (GPT2LMHeadModel, 149,760 parameters)"
    assert lines[1].startswith("on cpu-float32, attention sdpa, ")
    assert "text: 'The Eiffel Tower is in the city of'" in lines
    assert any(
        line.startswith("  transformer.h.1.mlp#7 (GPT2MLP): 1x1x64 float32") for line in lines
    )


def test_a_missing_or_damaged_golden_prints_one_line(tmp_path: Path) -> None:
    missing = show("nowhere.json")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "pytest-nnsight: there is no file nowhere.json\n"
    broken = tmp_path / "broken.json"
    broken.write_text((ROOT / GOLDEN).read_text()[:1000])
    damaged = show(str(broken))
    assert damaged.returncode == 2
    assert "is not whole JSON (truncated, or a merge conflict?)" in damaged.stderr
    assert damaged.stderr.count("\n") == 1


def test_arguments_for_pytest_are_refused() -> None:
    result = show(GOLDEN, "--", "-k", "x")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == (
        "pytest-nnsight: error: show does not run pytest; remove -- and the arguments after it"
    )
