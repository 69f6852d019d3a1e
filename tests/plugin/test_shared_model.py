"""What a test leaves on the shared model is put back and named; a test that hangs is ended."""

from __future__ import annotations

from project import TINY, Project


def test_what_is_left_behind_is_put_back_and_named(project: Project) -> None:
    project.test_file(
        """
def test_edit(nnsight_model, nnsight_capture):
    with nnsight_model.edit(inplace=True):
        nnsight_model.transformer.h[0].mlp.output[:] = 0

def test_train(nnsight_model, nnsight_capture):
    nnsight_model._module.train()

def test_grad(nnsight_model, nnsight_capture):
    nnsight_model._module(torch.tensor([[1, 2]])).logits.sum().backward()

def test_padding(nnsight_model, nnsight_capture):
    nnsight_model.tokenizer.padding_side = "right"

def test_is_as_before(nnsight_model, nnsight_capture):
    module = nnsight_model._module
    assert not module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert nnsight_model.tokenizer.padding_side == "left"
    output = nnsight_capture.trace("Hello", keep="transformer.h.0.mlp")
    assert output["transformer.h.0.mlp"].output.abs().max() > 0

def test_hook(nnsight_model, nnsight_capture):
    nnsight_model._module.lm_head.register_forward_hook(lambda *a: None)
"""
    )
    result = project.run(*TINY, "-W", "default")
    result.assert_outcomes(passed=6, warnings=5)
    result.stdout.fnmatch_lines(
        [
            "*test_edit left on the model: 1 persistent edit(s), cleared",
            "*test_train left on the model: training mode, back to eval",
            "*test_grad left on the model: gradients on 28 parameters, dropped",
            "*test_padding left on the model: tokenizer padding side right, back to left",
            "*test_hook left on the model: 1 torch hook(s), still there: remove them in the test",
        ]
    )
