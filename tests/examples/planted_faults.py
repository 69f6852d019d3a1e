"""Tests that each plant one fault in the model where ``FAULTS`` or ``CODE`` is set."""

import os

import pytest
import torch
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


def test_weight(nnsight_capture, nnsight_golden):
    check(nnsight_capture, nnsight_golden)


def test_two_matrices(nnsight_capture, nnsight_golden):
    check(nnsight_capture, nnsight_golden)


def test_epsilon(nnsight_capture, nnsight_golden):
    check(nnsight_capture, nnsight_golden)


def test_tokenizer(nnsight_capture, nnsight_golden):
    check(nnsight_capture, nnsight_golden)


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


def test_unchanged(nnsight_capture, nnsight_golden):
    check(nnsight_capture, nnsight_golden)
