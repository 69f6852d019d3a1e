"""The first line of a failure names the module where the drift starts, and the cause."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
from project import TINY, Project

pytestmark = pytest.mark.usefixtures("warm")
FAULTS = """
from transformers.models.gpt2 import modeling_gpt2

PROMPT = "The quick brown fox"

if os.environ.get("CODE") == "values":  # before the model is built: nnsight keeps each forward
    forward = modeling_gpt2.GPT2MLP.forward
    modeling_gpt2.GPT2MLP.forward = lambda self, x: forward(self, x) * 1.01
if os.environ.get("CODE") == "container":
    forward = modeling_gpt2.GPT2Block.forward
    def other(self, *a, **k):
        output = forward(self, *a, **k)
        if self.attn.layer_idx == 0:
            return output
        # up to transformers 5.2 a block gives a tuple
        return [output[0] * 1.01] if isinstance(output, tuple) else (output * 1.01,)
    modeling_gpt2.GPT2Block.forward = other
    final = torch.nn.LayerNorm.forward
    torch.nn.LayerNorm.forward = lambda self, x: final(self, x[0] if isinstance(x, tuple) else x)

@pytest.fixture(autouse=True)
def planted(request):
    if "FAULTS" not in os.environ:
        yield
        return
    model = request.getfixturevalue("nnsight_model")
    module, undo = model._module, []
    fault = request.node.originalname.removeprefix("test_")
    with torch.no_grad():
        if fault == "weight":
            weight = module.transformer.h[1].attn.c_proj.weight
            weight[3, 5] += 0.01
            undo.append(lambda: weight.__setitem__((3, 5), weight[3, 5] - 0.01))
        elif fault == "two_matrices":
            one, two = (module.transformer.h[i].mlp.c_proj.weight for i in (0, 1))
            old = one.clone(), two.clone()
            one.copy_(old[1]), two.copy_(old[0])
            undo.append(lambda: (one.copy_(old[0]), two.copy_(old[1])))
        elif fault == "epsilon":
            norms = [m for m in module.modules() if isinstance(m, torch.nn.LayerNorm)]
            for norm in norms:
                norm.eps = 1e-3
            module.config.layer_norm_epsilon = 1e-3
            undo += [lambda: setattr(module.config, "layer_norm_epsilon", 1e-5)]
            undo += [lambda norm=norm: setattr(norm, "eps", 1e-5) for norm in norms]
        elif fault == "tokenizer":
            tokenizer = model.tokenizer
            plain = type(tokenizer)._encode_plus
            def add_bos(self, *a, **k):
                encoding = plain(self, *a, **k)
                for key, value in (("input_ids", 1), ("attention_mask", 1)):
                    ids = encoding[key]
                    if isinstance(ids, torch.Tensor):
                        encoding[key] = torch.cat([torch.full((1, 1), value), ids], 1)
                    elif isinstance(ids[0], list):
                        encoding[key] = [[value, *row] for row in ids]
                    else:
                        encoding[key] = [value, *ids]
                return encoding
            type(tokenizer)._encode_plus = add_bos
            undo.append(lambda: setattr(type(tokenizer), "_encode_plus", plain))
        yield
        for action in undo:
            action()

def check(nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace(PROMPT) == nnsight_golden

def test_weight(nnsight_capture, nnsight_golden): check(nnsight_capture, nnsight_golden)
def test_two_matrices(nnsight_capture, nnsight_golden): check(nnsight_capture, nnsight_golden)
def test_epsilon(nnsight_capture, nnsight_golden): check(nnsight_capture, nnsight_golden)
def test_tokenizer(nnsight_capture, nnsight_golden): check(nnsight_capture, nnsight_golden)

def test_prompt(nnsight_capture, nnsight_golden):
    prompt = "Another prompt" if "FAULTS" in os.environ else PROMPT
    assert nnsight_capture.trace(prompt) == nnsight_golden

def test_settings(nnsight_capture, nnsight_golden):
    new = 3 if "FAULTS" in os.environ else 2
    assert nnsight_capture.generate(PROMPT, max_new_tokens=new) == nnsight_golden

def test_intervention(nnsight_capture, nnsight_golden):
    def ablate(model):
        model.transformer.h[1].mlp.output[:] = 0
    intervene = None if "FAULTS" in os.environ else ablate
    assert nnsight_capture.trace(PROMPT, intervene=intervene) == nnsight_golden

def test_unchanged(nnsight_capture, nnsight_golden): check(nnsight_capture, nnsight_golden)
"""
EXPECTED = {
    "weight": "golden drift: 14 of 31 calls, starts at transformer.h.1.attn.c_proj (rel *, "
    "allowed 1e-5); cause: weights (1 of 28 parameters differ: transformer.h.1.attn.c_proj.weight)",
    "two_matrices": "golden drift: 20 of 31 calls, starts at transformer.h.0.mlp.c_proj (rel *, "
    "allowed 1e-5); cause: weights (2 of 28 parameters differ: transformer.h.0.mlp.c_proj.*",
    "epsilon": "golden drift: 28 of 31 calls, starts at transformer.h.0.ln_1, "
    "5 of 5 LayerNorm (rel *, allowed 1e-5); cause: config (layer_norm_epsilon 1e-05 -> 0.001)",
    "tokenizer": "golden drift: prompt 19 ids, at 0: 56 ('T') -> 20 ids, at 0: 1 ('<s>'); "
    "cause: tokenizer (the same text gives other token ids)",
    "prompt": "golden drift: prompt 19 ids, at 0: 56 ('T') -> 14 ids, at 0: 37 ('A'); cause: "
    "prompt (*",
    "settings": "golden drift: max_new_tokens 2 -> 3; cause: settings (*",
    "intervention": "golden drift: intervention ablate -> None; cause: settings (*",
}


def test_each_fault_is_named_in_the_first_line(
    project: Project, monkeypatch: pytest.MonkeyPatch, first_line: Callable[..., str]
) -> None:
    project.test_file(FAULTS)
    project.write_goldens(*TINY, passed=8)
    monkeypatch.setenv("FAULTS", "1")
    result = project.run(*TINY, "--nnsight-tolerance=1e-5")
    result.assert_outcomes(passed=1, failed=7)
    lines = {name: first_line(result, f"test_{name}") for name in EXPECTED}
    for name, expected in EXPECTED.items():
        assert fnmatchcase(lines[name], expected), f"{name}: {lines[name]}"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "values",
            "golden drift: 18 of 31 calls, starts at transformer.h.0.mlp (rel 9*e-3, allowed "
            "1e-5); cause: code (same inputs, weights, config and versions: a patched module, a "
            "hook or an edit)",
        ),
        (
            "container",
            "golden drift: 1 of 31 calls, starts at transformer.h.1 (container {container}); "
            "cause: structure (same weights, config and versions)",
        ),
    ],
)
def test_changed_code_is_named(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    first_line: Callable[..., str],
    code: str,
    expected: str,
) -> None:
    """A changed container is named first, and the values in it are still compared."""
    project.test_file(FAULTS)
    project.run(*TINY, "--snapshot-update", "-k", "unchanged").assert_outcomes(passed=1)
    calls = project.read("test_it/test_unchanged")["calls"]
    block = next(call["out"] for call in calls if call["path"] == "transformer.h.1")
    container = {"tensor": "tensor -> (tensor,)", "(tensor,)": "(tensor,) -> [[]tensor]"}[block]
    monkeypatch.setenv("CODE", code)
    result = project.run(*TINY, "-k", "unchanged", "-vv")
    assert fnmatchcase(first_line(result), expected.format(container=container))
    label = "transformer.h.1" if block == "tensor" else "transformer.h.1 out[[]0]"
    result.stdout.fnmatch_lines([f"*{label}: rel *e-3*"])


def test_pytest_does_not_truncate_the_report(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.test_file(FAULTS)
    project.run(*TINY, "--snapshot-update", "-k", "epsilon").assert_outcomes(passed=1)
    monkeypatch.setenv("FAULTS", "1")
    result = project.run(*TINY, "-k", "epsilon")
    result.stdout.no_fnmatch_line("*truncated*")
    result.stdout.fnmatch_lines(
        [
            "*... and * more, smaller (-vv)",
            "*golden golden/tiny-gpt2/cpu-float32/test_it/test_epsilon.json",
            "*if this is right: pytest --nnsight-model tiny:gpt2 *test_epsilon --snapshot-update",
        ]
    )
