"""``--nnsight-calibrate`` measures the noise of this machine and writes it to the golden."""

from __future__ import annotations

import json

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("leaky", "warm")

TEST = """
torch.set_num_threads(int(os.environ.get("THREADS", "1")))

@pytest.fixture(scope="session", autouse=True)
def one_weight(nnsight_model):
    with torch.no_grad():
        weight = nnsight_model._module.transformer.h[1].mlp.c_fc.weight
        weight[3, 5] += float(os.environ.get("CHANGE", "0"))

def test_noise(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace("The quick brown fox jumps") == nnsight_golden
"""


def noise_of(project: Project, variant: str = "cpu-float32") -> list[float]:
    document = json.loads(project.golden("test_it/test_noise", variant=variant).read_text())
    tensors = [tensor for call in document["calls"] for tensor in call["tensors"]]
    return [tensor["noise"] for tensor in tensors if "noise" in tensor]


def test_calibrate_writes_noise_to_a_golden(project: Project) -> None:
    project.test_file(TEST)
    project.write_goldens(*TINY, passed=1)
    assert noise_of(project) == []
    result = project.run(*TINY, "--nnsight-calibrate")
    result.assert_outcomes(passed=1)
    result.stderr.re_match_lines(
        [r"nnsight: calibrating under \d changes .* eager attention \S+e-07 .* math attention .*"]
    )
    noise = noise_of(project)
    assert len(noise) > 10
    assert all(0 < value < 2e-6 for value in noise)
    assert {"eager attention", "math attention"} < set(
        project.read("test_it/test_noise")["calibration"]
    )
    before = project.goldens()
    project.run(*TINY, "--nnsight-calibrate").assert_outcomes(passed=1)
    assert project.goldens() == before, "measured again, it is the same to the byte"


def test_an_update_does_not_remove_measured_noise(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.test_file(TEST)
    project.run(*TINY, "--nnsight-calibrate").assert_outcomes(passed=1)
    noise, before = noise_of(project), project.goldens()
    monkeypatch.setenv("CHANGE", "0.01")
    project.write_goldens(*TINY, passed=1)
    assert project.goldens() != before
    assert noise_of(project) == noise


def test_measured_noise_sets_the_limit_in_bfloat16(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is 5 times the noise with other kernels, where bits need not be equal."""
    project.test_file(TEST)
    monkeypatch.setenv("THREADS", "1")
    bfloat16 = (*TINY, "--nnsight-dtype", "bfloat16")
    project.write_goldens(*bfloat16, passed=1)
    monkeypatch.setenv("THREADS", "2")
    monkeypatch.setenv("CHANGE", "1.5")
    project.run(*bfloat16).assert_outcomes(passed=1)
    monkeypatch.setenv("THREADS", "1")
    monkeypatch.setenv("CHANGE", "0")
    project.run(*bfloat16, "--nnsight-calibrate").assert_outcomes(passed=1)
    monkeypatch.setenv("THREADS", "2")
    project.run(*bfloat16, "--nnsight-attn", "eager").assert_outcomes(passed=1)
    monkeypatch.setenv("CHANGE", "1.5")
    result = project.run(*bfloat16)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *golden drift: * starts at transformer.h.1.mlp.c_fc (rel *"])


def test_calibrating_is_refused_in_ci(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = project.run(*TINY, "--nnsight-calibrate")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --snapshot-update is refused under CI*"])
