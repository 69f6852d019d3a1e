"""``keep=`` with ``--nnsight-store-tensors`` stores tensors, so that drift is measured exactly."""

from __future__ import annotations

import pytest
from project import TINY, Project
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("leaky", "warm")

PATH = "transformer.h.1.mlp.c_fc"
TEST = f"""
@pytest.fixture(scope="session", autouse=True)
def one_weight(nnsight_model):
    with torch.no_grad():
        weight = nnsight_model._module.get_submodule("{PATH}").weight
        weight[3, 5] += float(os.environ.get("CHANGE", "0"))

def test_kept(nnsight_capture, nnsight_golden):
    run = nnsight_capture.trace("The quick brown fox", keep=["{PATH}", "transformer.h.0.attn"])
    if "SHOW" in os.environ:
        torch.save(run["{PATH}"].output, "tensor.pt")
    assert run == nnsight_golden
"""
STORE = "--nnsight-store-tensors"


@pytest.fixture
def stored(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    project.test_file(TEST)
    monkeypatch.setenv("SHOW", "1")
    project.run(*TINY, "--snapshot-update", STORE).assert_outcomes(passed=1)
    return project


def test_the_tensors_are_in_a_file_next_to_the_golden(stored: Project) -> None:
    import torch

    tensors = load_file(stored.golden("test_it/test_kept").with_suffix(".safetensors"))
    assert set(tensors) == {PATH, "transformer.h.0.attn out[0]"}
    assert torch.equal(tensors[PATH], torch.load(stored.path / "tensor.pt")[0])


def test_a_failure_shows_the_exact_drift(stored: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    before = torch.load(stored.path / "tensor.pt")[0].double()
    monkeypatch.setenv("CHANGE", "0.01")
    result = stored.run(*TINY)
    result.assert_outcomes(failed=1)
    now = torch.load(stored.path / "tensor.pt")[0].double()
    norms = torch.maximum(before.norm(dim=1), now.norm(dim=1))
    each = (now - before).norm(dim=1) / norms
    rel, worst = each.square().mean().sqrt(), each.max()
    result.stdout.fnmatch_lines(
        [
            f"E *{PATH}: exactly rel {rel:.6g}, worst token {each.argmax()} {worst:.6g} "
            "(stored tensor)"
        ]
    )


def test_without_the_option_nothing_is_stored(project: Project) -> None:
    project.test_file(TEST)
    project.write_goldens(*TINY, passed=1)
    assert not list(project.path.rglob("*.safetensors"))


@pytest.mark.parametrize("damage", [b"", b"not safetensors at all"])
def test_a_damaged_file_only_hides_the_exact_drift(
    stored: Project, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    stored.golden("test_it/test_kept").with_suffix(".safetensors").write_bytes(damage)
    stored.run(*TINY).assert_outcomes(passed=1)
    monkeypatch.setenv("CHANGE", "0.01")
    result = stored.run(*TINY)
    result.assert_outcomes(failed=1, warnings=1)
    result.stdout.fnmatch_lines([f"E *golden drift: 10 of 31 calls, starts at {PATH} *"])
    result.stdout.fnmatch_lines(["*no exact numbers: test_kept.safetensors is damaged *"])


def test_tensors_of_an_older_golden_are_not_used(
    stored: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHANGE", "0.01")
    stored.write_goldens(*TINY, passed=1)
    monkeypatch.setenv("CHANGE", "0.02")
    result = stored.run(*TINY)
    result.assert_outcomes(failed=1, warnings=1)
    result.stdout.no_fnmatch_line("*exactly*")
    result.stdout.fnmatch_lines(["*test_kept.safetensors is of an earlier golden*"])
