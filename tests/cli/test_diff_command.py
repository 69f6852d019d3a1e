"""``pytest-nnsight diff`` compares two models, or two settings of one, without a golden."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nnsight import cli

PROMPT = "trace of 'The Eiffel Tower is in the city of':"


def diff(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    code = cli.main(["diff", *arguments])
    return code, capfd.readouterr().out.splitlines()


def test_a_model_is_the_same_as_itself(capfd: pytest.CaptureFixture[str]) -> None:
    code, lines = diff(capfd, "tiny:gpt2", "tiny:gpt2", "--prompt=Hello", "--generate=2")
    assert code == 0
    assert lines == [
        "trace of 'Hello':",
        "  same: 31 calls, bit by bit",
        "generate of 'Hello':",
        "  same: 62 calls, bit by bit",
    ]


@pytest.mark.parametrize(
    ("setting", "allowed"), [("attn=eager", "1e-5"), ("dtype=bfloat16", "0.06")]
)
def test_two_settings_of_one_model_are_within_noise(
    capfd: pytest.CaptureFixture[str], setting: str, allowed: str
) -> None:
    code, lines = diff(capfd, "tiny:llama", "tiny:llama", f"--second={setting}")
    assert code == 0
    assert lines[0] == PROMPT
    assert lines[1].startswith("  within noise: ")
    assert lines[1].endswith(f"allowed {allowed})")


def test_one_changed_weight_is_named_as_the_cause(
    capfd: pytest.CaptureFixture[str], saved_gpt2: Path, tmp_path: Path
) -> None:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

    other = tmp_path / "other"
    model = GPT2LMHeadModel.from_pretrained(saved_gpt2)
    model.transformer.h[1].mlp.c_fc.weight.data[3, 5] += 0.01
    model.save_pretrained(other)
    PreTrainedTokenizerFast.from_pretrained(saved_gpt2).save_pretrained(other)
    code, lines = diff(capfd, str(saved_gpt2), str(other))
    assert code == 1
    assert lines[1].startswith("  drift: 10 of 31 calls, starts at transformer.h.1.mlp.c_fc (rel ")
    assert lines[1].endswith(
        "cause: weights (1 of 28 parameters differ: transformer.h.1.mlp.c_fc.weight)"
    )


def test_two_architectures_are_aligned_and_unmatched_modules_listed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code, lines = diff(capfd, "tiny:gpt2", "tiny:llama")
    assert code == 1
    assert "  transformer.h.0.mlp: class GPT2MLP -> LlamaMLP" in lines
    assert any(line.startswith("  only in the first: transformer.wte, ") for line in lines)
    assert any(line.startswith("  only in the second: model.embed_tokens, ") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tiny:gpt2", "tiny:gtp2"), "there is no built-in model 'tiny:gtp2'; nearest: tiny:gpt2"),
        (
            ("tiny:gpt2", "tiny:gpt2", "--first=type=x"),
            "there is no setting 'type'; nearest: dtype",
        ),
        (
            ("tiny:gpt2", "tiny:gpt2", "--first=is_remote=yes"),
            "there is no setting 'is_remote'; nearest: ",
        ),
        (("tiny:gpt2", "tiny:gpt2", "--first=dtype=x"), "dtype 'x' is unknown; nearest: "),
    ],
)
def test_a_wrong_argument_prints_one_line(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert cli.main(["diff", *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"pytest-nnsight: {message}")
    assert len(error.splitlines()) == 1
