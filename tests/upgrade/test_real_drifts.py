"""Drifts that real releases caused: `upgrade` finds each, and its cause.

Environments come from the index that pip is configured for. The drifts: a folder
saved by transformers 5 loads on 4 without an error, and with the default of ``rope_theta``; since
transformers 5.3 a GPT-2 block returns a tensor where it was a tuple; transformers 5.24 renamed the
output ``past_key_values`` to ``cache``; nnsight before 0.8 passes no
``position_ids``, so that a padded prompt of GPT-2 starts at a later position.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
SUITE = ("--nnsight-suite", "-k", "short or padded")
SHORT, PADDED = "nnsight-suite::test_short_prompt", "nnsight-suite::test_padded_batch"
START = r"golden drift: \d+ of 32 calls, starts at model.rotary_emb out\[0\] "
LOST = (
    r"\(rel 0\.\d+, allowed 1e-5\); cause: config \(rope_parameters\.rope_theta 100000 -> 10000\)"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the environments of this file."""
    return tmp_path_factory.mktemp("environments")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, outside CI and without a model hub."""
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def save_llama(folder: Path) -> None:
    """Save a Llama as transformers 5 does, with its new tokenizer class."""
    import transformers

    from pytest_nnsight.models import architectures, random_weights, tiny

    config, auto = architectures.family_config("llama")
    config.rope_parameters = {"rope_theta": 1e5, "rope_type": "default"}
    model = getattr(transformers, auto).from_config(config)
    random_weights.fill(model)
    model.save_pretrained(folder)
    tiny.byte_tokenizer(adds_bos=True).save_pretrained(folder)


def publish_tokenizer(folder: Path) -> None:
    """Write the tokenizer class that the authors of the model would have published."""
    path = folder / "tokenizer_config.json"
    content = json.loads(path.read_text())
    assert content["tokenizer_class"] == "TokenizersBackend"
    path.write_text(json.dumps(content | {"tokenizer_class": "PreTrainedTokenizerFast"}))


def write_goldens(*arguments: str) -> None:
    command = [sys.executable, "-m", "pytest", *arguments, *SUITE, "--snapshot-update"]
    subprocess.run(command, check=True, capture_output=True)


def upgrade(cache: Path, requirement: str, *arguments: str) -> tuple[int, list[str]]:
    """Return the exit code, and the lines about tests that differ."""
    command = [
        str(Path(sys.executable).with_name("pytest-nnsight")),
        "upgrade",
        f"--with={requirement}",
    ]
    command += [f"--cache={cache}", "--", *arguments, *SUITE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert f"{requirement}:" in done.stdout, "it could not be installed"
    return done.returncode, done.stdout.partition(f"{requirement}:\n")[2].splitlines()


def test_folder_saved_by_transformers_5_drifts_under_4(cache: Path, folder: Path) -> None:
    """First the tokenizer cannot be read; with its published class, the drift is found."""
    save_llama(folder / "my-llama")
    model = "--nnsight-model=./my-llama"
    write_goldens(model)
    code, lines = upgrade(cache, "transformers==4.57.6", model)
    assert (code, lines[0]) == (3, f"  error: {SHORT}, {PADDED}")
    assert lines[1:] == [
        "    cannot load my-llama: Tokenizer class TokenizersBackend is unknown to transformers "
        "4.57.6: the folder was saved by a newer one; take the tokenizer_config.json that the "
        "model was published with"
    ]
    publish_tokenizer(folder / "my-llama")
    code, lines = upgrade(cache, "transformers==4.57.6", model)
    assert code == 1
    assert lines[::2] == [f"  drift: {SHORT}", f"  drift: {PADDED}"]
    for line in lines[1::2]:
        assert re.fullmatch(f"    {START}{LOST}", line)


@pytest.mark.parametrize(
    ("release", "change"),
    [
        ("5.2.0", "container tensor -> (tensor,), first at transformer.h.0"),
        ("5.24.0", "container past_key_values -> cache, first at transformer"),
    ],
)
def test_release_that_changes_only_the_structure(cache: Path, release: str, change: str) -> None:
    write_goldens("--nnsight-model=tiny:gpt2")
    code, lines = upgrade(cache, f"transformers=={release}", "--nnsight-model=tiny:gpt2")
    assert code == 5
    assert lines[0] == "  structure only, all values equal:"
    assert lines[1].startswith(f"    {change} (transformers ")
    assert lines[1].endswith("), 2 tests:")
    assert lines[2:] == [f"      {SHORT}, {PADDED}"]


def test_positions_of_a_padded_batch_changed(cache: Path) -> None:
    """Only the padded batch drifts; the short prompt is the same bit by bit."""
    write_goldens("--nnsight-model=tiny:gpt2")
    code, lines = upgrade(cache, "nnsight==0.7.0", "--nnsight-model=tiny:gpt2")
    assert code == 1
    assert lines[0] == f"  drift: {PADDED}"
    assert lines[1].startswith(
        "    golden drift: 30 of 31 calls, starts in <model>, before transformer.wpe (shape "
        "[3, 36] -> [1, 36]); cause: positions (<model> is given another position_ids; nnsight "
    )
    assert len(lines) == 2
