"""``--nnsight-model``: every kind of spec is loaded once, and every error is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")

COUNT = """
LOADS = []

def test_one(nnsight_model):
    LOADS.append(id(nnsight_model))
    assert not nnsight_model._module.training
    assert nnsight_model.dispatched if hasattr(nnsight_model, "dispatched") else True

def test_two(nnsight_model):
    LOADS.append(id(nnsight_model))
    assert LOADS[0] == LOADS[1]

def test_golden(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden
"""


RELEASED = """
import weakref

MODELS = []

def test_one_before_is_released(nnsight_model):
    assert all(known() is None for known in MODELS)
    MODELS.append(weakref.ref(nnsight_model._module))
"""


def test_a_model_is_loaded_once_with_progress_and_a_folder_is_named_after_it(
    project: Project, saved_gpt2: Path
) -> None:
    project.test_file(COUNT)
    result = project.run(f"--nnsight-model={saved_gpt2}", "--snapshot-update")
    result.assert_outcomes(passed=3)
    progress = [line for line in result.errlines if "nnsight: loading" in line]
    assert len(progress) == 1
    assert progress[0].startswith("nnsight: loading my-gpt2 ... GPT2LMHeadModel, 0.1 M parameters")
    (path,) = project.goldens()
    assert path == "my-gpt2/cpu-float32/test_it/test_golden.json"
    assert str(saved_gpt2.parent) not in project.goldens()[path]


def test_two_models_run_each_test_on_both(project: Project) -> None:
    """Node ids contain the name of the model only if there are several."""
    project.test_file(COUNT + RELEASED)
    both = (*TINY, "--nnsight-model", "mine=tiny:llama")
    result = project.run(*both, "--snapshot-update", "-v")
    result.assert_outcomes(passed=8)
    assert sorted(project.goldens()) == [
        "mine/cpu-float32/test_it/test_golden.json",
        "tiny-gpt2/cpu-float32/test_it/test_golden.json",
    ]
    result.stdout.fnmatch_lines(["*PASSED test_it.py::test_golden[[]mine[]]*"])
    single = project.run(*TINY, "-v", "-k", "golden")
    single.assert_outcomes(passed=1)
    single.stdout.fnmatch_lines(["*PASSED test_it.py::test_golden *"])


def test_a_hub_id_is_loaded_from_the_cache_without_a_network(
    project: Project, saved_gpt2: Path, hub: Path
) -> None:
    """``--nnsight-model gpt2`` without a network, from a folder like the hub's cache."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(saved_gpt2, hub / "models--gpt2" / "snapshots" / commit)
    refs = hub / "models--gpt2" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    project.test_file(COUNT)
    project.run("--nnsight-model", "gpt2", "--snapshot-update").assert_outcomes(passed=3)
    assert list(project.goldens()) == ["gpt2/cpu-float32/test_it/test_golden.json"]
    project.run("--nnsight-model", f"gpt2@{commit}", "-k", "golden").assert_outcomes(passed=1)

    absent = project.run("--nnsight-model", "gpt3", "-k", "golden")
    absent.assert_outcomes(errors=1)
    absent.stdout.fnmatch_lines(
        ["cannot load gpt3: not in the local cache, and the model hub cannot be reached *"]
    )
    assert "Traceback" not in "\n".join(absent.outlines)


IMPATIENT = """
import time, types
from huggingface_hub.utils import _http

# It asks a hub that cannot be reached six times, and waits for 23 seconds in between.
_http.time = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
"""


def test_a_missing_network_or_a_damaged_file_is_one_line(
    project: Project, saved_gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.test_file(COUNT)
    (project.path / "conftest.py").write_text(IMPATIENT)
    with monkeypatch.context() as patched:
        patched.setenv("HF_HUB_OFFLINE", "0")
        patched.setenv("HF_HOME", str(project.path / "empty"))
        patched.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        unreachable = project.run("--nnsight-model", "gpt2", "-k", "golden")
    unreachable.assert_outcomes(errors=1)
    unreachable.stdout.fnmatch_lines(["cannot load gpt2: *the model hub cannot be reached*"])

    damaged = project.path / "damaged"
    shutil.copytree(saved_gpt2, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = project.run("--nnsight-model", str(damaged), "-k", "golden")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["cannot load damaged: its weights file is damaged *"])
    for outcome in (unreachable, result):
        assert "Traceback" not in "\n".join(outcome.outlines)


def test_a_configuration_of_another_kind_is_one_line(project: Project, saved_gpt2: Path) -> None:
    unknown = project.path / "unknown"
    shutil.copytree(saved_gpt2, unknown)
    config = json.loads((unknown / "config.json").read_text())
    (unknown / "config.json").write_text(json.dumps(config | {"model_type": "gpt99"}))
    project.test_file(COUNT)
    result = project.run("--nnsight-model", str(unknown), "-k", "golden")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["cannot load unknown: *gpt99*"])
    assert "Traceback" not in "\n".join(result.outlines)


def test_a_missing_device_is_one_line(project: Project, saved_gpt2: Path) -> None:
    """Also if transformers puts the error in the middle of another one."""
    project.test_file("def test_load(nnsight_model): pass\n")
    for model in (f"--nnsight-model={saved_gpt2}", "--nnsight-model=tiny:gpt2"):
        result = project.run(model, "--nnsight-device-map", "gpu")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["cannot load *gpt2: *Error: *gpu*"])
        assert "Traceback" not in "\n".join(result.outlines)


def test_dtype_and_attention_by_option_ini_and_marker(project: Project) -> None:
    project.test_file(
        """
def test_plain(nnsight_model):
    parameter = next(nnsight_model._module.parameters())
    attention = nnsight_model._module.config._attn_implementation
    assert (str(parameter.dtype), attention) == ("torch." + os.environ["DTYPE"], os.environ["ATTN"])

@pytest.mark.nnsight(dtype="float16", attn="eager", device_map="cpu")
def test_marker(nnsight_model):
    parameter = next(nnsight_model._module.parameters())
    assert parameter.dtype == torch.float16
    assert nnsight_model._module.config._attn_implementation == "eager"
"""
    )
    environ = project.pytester._monkeypatch.setenv
    environ("DTYPE", "bfloat16")
    environ("ATTN", "eager")
    project.run(*TINY, "--nnsight-dtype=bfloat16", "--nnsight-attn=eager").assert_outcomes(passed=2)
    environ("DTYPE", "float64")
    environ("ATTN", "sdpa")
    project.pytester.makeini("[pytest]\nnnsight_model = tiny:gpt2\nnnsight_dtype = float64\n")
    project.run().assert_outcomes(passed=2)
    environ("PYTEST_NNSIGHT_DTYPE", "float32")
    environ("DTYPE", "float32")
    project.run().assert_outcomes(passed=2)


def test_the_golden_of_another_variant_is_named_and_can_be_used(project: Project) -> None:
    project.test_file(COUNT)
    project.run(*TINY, "--snapshot-update", "-k", "golden").assert_outcomes(passed=1)
    half = (*TINY, "--nnsight-dtype", "bfloat16", "-k", "golden")
    missing = project.run(*half)
    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(
        ["E*golden: no golden *cpu-bfloat16*; there is one for cpu-float32: compare with *"]
    )
    across = project.run(*half, "--nnsight-golden-from", "cpu-float32")
    across.assert_outcomes(passed=1)
    assert list(project.goldens()) == ["tiny-gpt2/cpu-float32/test_it/test_golden.json"]


def test_without_a_model_tests_are_skipped_with_a_reason(project: Project) -> None:
    project.test_file(COUNT)
    result = project.run("-rs")
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["SKIPPED*needs a model: add --nnsight-model gpt2, or tiny:gpt2*"])


def test_a_model_fixture_of_the_user_replaces_ours(project: Project) -> None:
    """A fixture of the same name replaces ours; goldens are named after the model's class."""
    project.pytester.makeconftest(
        """
import pytest, torch
from pytest_nnsight import nnsight_api
from pytest_nnsight.models import tiny

@pytest.fixture(scope="session")
def nnsight_model():
    return nnsight_api.wrap(*tiny.build("gpt2", torch.float32, None))
"""
    )
    project.test_file(COUNT)
    project.run("--snapshot-update").assert_outcomes(passed=3)
    assert list(project.goldens()) == ["GPT2LMHeadModel/cpu-float32/test_it/test_golden.json"]


@pytest.mark.usefixtures("hub")  # it keeps a copy of such code
def test_code_of_a_model_runs_only_with_trust_remote_code(
    project: Project, saved_gpt2: Path
) -> None:
    own = project.path / "own"
    shutil.copytree(saved_gpt2, own)
    (own / "modeling_own.py").write_text(
        "from transformers import GPT2Config, GPT2LMHeadModel\n\n"
        "class OwnConfig(GPT2Config):\n    model_type = 'own'\n\n"
        "class OwnModel(GPT2LMHeadModel):\n    config_class = OwnConfig\n"
    )
    config = json.loads((own / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["OwnModel"]}
    auto = {"AutoConfig": "OwnConfig", "AutoModelForCausalLM": "OwnModel"}
    config["auto_map"] = {key: f"modeling_own.{name}" for key, name in auto.items()}
    (own / "config.json").write_text(json.dumps(config))
    project.test_file(
        "def test_class(nnsight_model):\n"
        "    assert type(nnsight_model._module).__name__ == 'OwnModel'\n"
    )
    model = f"--nnsight-model={own}"
    refused = project.run(model)
    refused.assert_outcomes(errors=1)
    refused.stdout.fnmatch_lines(["cannot load own: it brings its own code; read it, then allow *"])
    assert "Traceback" not in "\n".join(refused.outlines)
    project.run(model, "--nnsight-trust-remote-code").assert_outcomes(passed=1)


MARKED = """
@pytest.mark.nnsight(model="tiny:bert")
def test_encoder(nnsight_model, nnsight_capture, nnsight_golden):
    assert type(nnsight_model._module).__name__ == "BertForMaskedLM"
    assert nnsight_capture.trace("Hello") == nnsight_golden

@pytest.mark.nnsight(model=["tiny:gpt2", "tiny:llama"])
def test_two(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("Hello") == nnsight_golden

def test_of_the_session(nnsight_model):
    assert type(nnsight_model._module).__name__ == "GPT2LMHeadModel"
"""


def test_a_marker_names_the_model_of_its_test(project: Project) -> None:
    project.test_file(MARKED)
    project.run(*TINY, "--snapshot-update").assert_outcomes(passed=4)
    assert {path.rpartition("/cpu-float32/")[::2] for path in project.goldens()} == {
        ("tiny-bert", "test_it/test_encoder.json"),
        ("tiny-gpt2", "test_it/test_two.json"),
        ("tiny-llama", "test_it/test_two.json"),
    }
    project.run(*TINY).assert_outcomes(passed=4)
    project.run().assert_outcomes(passed=3, skipped=1)


def test_a_wrong_model_in_a_marker_is_one_line(project: Project) -> None:
    project.test_file(MARKED.replace("tiny:bert", "tiny:brt"))
    result = project.run(*TINY)
    result.stdout.fnmatch_lines(["*there is no built-in model 'tiny:brt'; nearest: tiny:bert*"])
    result.stdout.no_fnmatch_line("*Traceback*")
