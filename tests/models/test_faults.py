"""Faults in the trained model are named; other kernels and thread counts are not drift.

Each session runs in another process than the one that wrote the golden, as for a user.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("warm")

TEST = """
import os, torch

def test_trace(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("The Eiffel Tower is in the city of") == nnsight_golden
"""
LONG = """
SENTENCE = "The quick brown fox jumps over the lazy dog while the rain keeps falling. "

def test_long(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace(SENTENCE * 16) == nnsight_golden
"""
PLANT = """
import os, pytest, torch

if "THREADS" in os.environ:
    torch.set_num_threads(int(os.environ["THREADS"]))

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    model = yield
    if fixturedef.argname == "nnsight_model" and "WEIGHT" in os.environ:
        model._module.get_submodule(os.environ["WEIGHT"]).weight.data[7, 11] += 0.05
    return model
"""
MODULE = "model.layers.12.mlp.down_proj"


@pytest.fixture
def run(user: pytest.Pytester, smollm2: Path):
    """Return a function that runs `TEST` against a golden of the unchanged model."""
    user.makepyfile(test_it=TEST)
    user.makeconftest(PLANT)

    def run(*arguments: str, folder: Path = smollm2) -> pytest.RunResult:
        model = f"--nnsight-model=smollm2={folder}"
        return user.runpytest_subprocess(model, *arguments, timeout=300)

    run("--snapshot-update").assert_outcomes(passed=1)
    return run


def copy_with(folder: Path, source: Path, file: str, **changes: object) -> Path:
    """Copy a model folder, with links to its weights, and change values in one JSON file."""
    folder.mkdir()
    for path in source.iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).symlink_to(path)
        else:
            shutil.copy(path, folder)
    content = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps(content))
    return folder


def test_a_changed_epsilon_tokenizer_and_weight_are_named(
    run, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epsilon = copy_with(tmp_path / "epsilon", smollm2, "config.json", rms_norm_eps=1e-6)
    result = run(folder=epsilon)
    result.stdout.re_match_lines(
        [
            r"E .*golden drift: \d+ of 396 calls, starts at model.layers.0.input_layernorm, "
            r"61 of 61 LlamaRMSNorm \(rel .*, allowed 1e-5\); "
            r"cause: config \(rms_norm_eps 1e-05 -> 1e-06\)"
        ]
    )

    tokenizer = json.loads((smollm2 / "tokenizer.json").read_text())
    bos = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    single = [bos, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
        },
    }
    assert tokenizer["post_processor"] != template
    adds_bos = copy_with(tmp_path / "bos", smollm2, "tokenizer.json", post_processor=template)
    result = run(folder=adds_bos)
    result.stdout.re_match_lines(
        [
            r"E .*golden drift: prompt 9 ids, at 0: 504 \('The'\) -> 10 ids, at 0: 1 "
            r"\('<\|im_start\|>'\); "
            r"cause: tokenizer \(the same text gives other token ids\)"
        ]
    )

    monkeypatch.setenv("WEIGHT", MODULE)
    result = run()
    result.stdout.re_match_lines(
        [
            rf"E .*golden drift: \d+ of 396 calls, starts at {MODULE} \(rel .*, allowed 1e-5\); "
            rf"cause: weights \(1 of 272 parameters differ: {MODULE}.weight\)"
        ]
    )


@pytest.mark.parametrize("is_reversed", [False, True], ids=["forth", "back"])
def test_thread_counts_attention_and_instruction_sets_are_not_drift(
    user: pytest.Pytester, smollm2: Path, monkeypatch: pytest.MonkeyPatch, is_reversed: bool
) -> None:
    """Goldens of one thread pass with two threads, AVX2 kernels and eager attention."""
    user.makepyfile(test_it=TEST + LONG)
    user.makeconftest(PLANT)
    plain = {"THREADS": "1"}
    other = {"THREADS": "2", "ATEN_CPU_CAPABILITY": "avx2", "ATTENTION": "eager"}
    ways = [plain, {"THREADS": "2"}, {"ATEN_CPU_CAPABILITY": "avx2"}, other]
    if is_reversed:
        ways = [other, plain]
    for index, way in enumerate(ways):
        with monkeypatch.context() as patched:
            for name, value in way.items():
                patched.setenv(name, value)
            options = [f"--nnsight-model=smollm2={smollm2}"]
            options += ["--snapshot-update"] if index == 0 else []
            options += ["--nnsight-attn", way["ATTENTION"]] if "ATTENTION" in way else []
            result = user.runpytest_subprocess(*options, timeout=300)
        result.assert_outcomes(passed=2)
        if index and way is not plain:
            result.stdout.no_fnmatch_line("*bits differ*")


def test_an_update_of_an_unchanged_model_changes_no_file(run, pytester: pytest.Pytester) -> None:
    """The golden and the fingerprints have the same content and modification time."""
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in pytester.path.rglob("*.json")}
    assert len(before) == 2
    run("--snapshot-update").assert_outcomes(passed=1)
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in pytester.path.rglob("*.json")}
    assert after == before
