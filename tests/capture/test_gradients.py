"""Gradients of a scalar with respect to the output of every module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import diagnose
from pytest_nnsight.errors import UsageError
from pytest_nnsight.golden.document import decode, encode

PROMPT = "The Eiffel Tower"


def highest_logit(model: Any) -> Any:
    return model.lm_head.output[0, -1].max()


def first_logit(model: Any) -> Any:
    return model.lm_head.output[0, 0, 0]


def plainly(capture: Capture, path: str) -> torch.Tensor:
    """Return the gradient of the highest logit by plain torch."""
    module, found = nnsight_api.torch_module(capture.model), []
    watched = module.get_submodule(path)

    def keep(_: Any, __: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handle = watched.register_forward_hook(keep)
    ids = capture.model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    logits = module(input_ids=ids).logits
    handle.remove()
    return torch.autograd.grad(logits[0, -1].max(), found[0])[0]


@pytest.mark.parametrize(
    "path", ["transformer.wte", "transformer.h.0", "transformer.h.1.attn", "transformer.h.1.mlp"]
)
def test_they_are_those_of_plain_torch(gpt2: Capture, path: str) -> None:
    run = gpt2.trace(PROMPT, gradient_of=highest_logit, keep=path)
    found = run[f"gradient.{path}"]
    torch.testing.assert_close(found.output, plainly(gpt2, path))
    leaf = found.call.leaves[0].summary
    assert leaf.rms == pytest.approx(found.output.square().mean().sqrt().item(), rel=1e-4)


def test_gradients_start_at_the_last_module_and_skip_those_without(
    gpt2: Capture,
) -> None:
    run = gpt2.trace(PROMPT, gradient_of=highest_logit)
    paths = [path for path in run.paths if path.startswith("gradient")]
    assert paths[:2] == ["gradient", "gradient.lm_head"]
    assert paths.index("gradient.transformer.h.1") < paths.index("gradient.transformer.h.0")
    assert [path for path in run.paths if path not in paths] == gpt2.trace(PROMPT).paths
    assert run.prompt.generation["gradient_of"] == "highest_logit"


def test_nothing_is_left_on_the_model(gpt2: Capture) -> None:
    module = nnsight_api.torch_module(gpt2.model)
    gpt2.trace(PROMPT, gradient_of=highest_logit)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not torch.is_inference_mode_enabled()
    assert gpt2.trace(PROMPT, keep="transformer.h.0")["transformer.h.0"].output.grad_fn is None


def test_activations_are_the_same_with_and_without(gpt2: Capture) -> None:
    with_gradients = gpt2.trace(PROMPT, gradient_of=highest_logit)
    plain = gpt2.trace(PROMPT)
    assert with_gradients.calls[: len(plain.calls)] == plain.calls


def test_several_scalars_of_one_pass(gpt2: Capture) -> None:
    both = {"highest": highest_logit, "first": first_logit}
    run = gpt2.trace(PROMPT, gradient_of=both)
    alone = gpt2.trace(PROMPT, gradient_of=first_logit)
    of_first = run["gradient.first.transformer.h.0"].call.leaves
    assert of_first == alone["gradient.transformer.h.0"].call.leaves
    assert of_first != run["gradient.highest.transformer.h.0"].call.leaves


def test_a_drift_of_gradients_alone_starts_where_it_starts(gpt2: Capture) -> None:
    """In the backward pass, modules that run early in the model drift late."""

    def bent_by(factor: float) -> Callable[[Any], None]:
        def bent(model: Any) -> None:
            value = model.transformer.h[1].ln_2.output
            value.register_hook(lambda gradient: gradient * factor)

        return bent

    golden, received = (
        gpt2.trace(PROMPT, gradient_of=highest_logit, intervene=bent_by(factor))
        for factor in (1.0, 1.01)
    )
    comparison = compare(golden, received)
    assert not comparison.matches
    failing = {drift.path for drift in comparison.failures}
    assert all(path.startswith("gradient.") for path in failing)
    assert "gradient.transformer.h.1.mlp" not in failing
    assert "gradient.transformer.h.0" in failing
    assert "gradient.transformer.h.1.ln_2" not in failing  # torch reads it before its hooks
    assert diagnose(golden, received, comparison).start.path == "gradient.transformer.h.1.attn"


def test_equal_runs_are_equal_bit_by_bit(gpt2: Capture) -> None:
    first, second = (gpt2.trace(PROMPT, gradient_of=highest_logit) for _ in range(2))
    comparison = compare(first, second)
    assert comparison.matches
    assert comparison.bits.count == 0


def test_another_objective_is_another_request(gpt2: Capture) -> None:
    comparison = compare(
        gpt2.trace(PROMPT, gradient_of=highest_logit), gpt2.trace(PROMPT, gradient_of=first_logit)
    )
    assert comparison.failures[0].kind == "settings"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda model: model.lm_head.output, "gradient_of must return a scalar"),
        (lambda model: 1.0, "gradient_of must return a scalar made from the model's values, got 1"),
        ("loss", "gradient_of takes a function of the model that returns a scalar"),
        ({"a b": highest_logit}, "gradient_of takes a function of the model"),
    ],
)
def test_objectives_that_are_not_scalars_are_refused(gpt2: Capture, wrong: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("(", r"\(")):
        gpt2.trace(PROMPT, gradient_of=wrong)


def test_they_survive_a_golden(gpt2: Capture) -> None:
    run = gpt2.trace(PROMPT, gradient_of=highest_logit)
    assert compare(decode(encode(run), "golden"), run).bits.count == 0


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_other_architectures(capture_of: Callable[..., Capture], name: str) -> None:
    capture = capture_of(f"tiny:{name}")

    def objective(model: Any) -> Any:
        return model.output.logits.square().sum()

    run, plain = capture.trace(PROMPT, gradient_of=objective), capture.trace(PROMPT)
    count = len(plain.calls)
    assert len(run.calls) > 1.5 * count
    assert [call.key for call in run.calls[:count]] == [call.key for call in plain.calls]
    if name != "t5":  # whose attention takes another kernel where its bias has a gradient
        assert run.calls[:count] == plain.calls
