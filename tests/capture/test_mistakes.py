"""Common mistakes with nnsight, each with the line that explains it and how to fix it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture

BEFORE_0_8 = nnsight_api.version() < (0, 8)


def out_of_order(m: Any) -> None:
    with m.trace("Hello"):
        m.transformer.h[1].output.save()
        m.transformer.h[0].output.save()


def inner_after_outer(m: Any) -> None:
    with m.trace("Hello"):
        m.transformer.h[0].output.save()
        m.transformer.h[0].mlp.output.save()


def not_saved(m: Any) -> Any:
    with m.trace("Hello"):
        hidden = m.transformer.h[1].output
    return hidden.shape


def no_input(m: Any) -> None:
    with m.trace():
        m.lm_head.output.save()


def invoke_in_invoke(m: Any) -> None:
    with m.trace() as tracer, tracer.invoke("Hello"):
        m.transformer.h[0].output.save()
        with tracer.invoke("World"):
            m.lm_head.output.save()


def tuple_as_tensor(m: Any) -> None:
    with m.trace("Hello"):
        m.transformer.h[0].attn.output.mean().save()


def tuple_written_to(m: Any) -> None:
    with m.trace("Hello"):
        m.transformer.h[0].attn.output[:] = 0


def meta_tensor(m: Any) -> None:
    with m.trace("Hello"):
        (m.transformer.wte.output + torch.zeros(64, device="meta")).save()


def no_such_module(m: Any) -> None:
    with m.trace("Hello"):
        m.transformer.h[0].mpl.output.save()


def no_such_block(m: Any) -> None:
    with m.trace("Hello"):
        m.transformer.h[7].output.save()


def assert_in_a_trace(m: Any) -> None:
    with m.trace("Hello"):
        hidden = m.transformer.h[0].ln_1.output
        assert hidden.numel() > 100_000


@pytest.mark.parametrize(
    ("mistake", "hint"),
    [
        (
            out_of_order,
            "transformer.h.0 had run already; read modules in the order in which they run: "
            "transformer.h.0, transformer.h.1",
        ),
        (
            inner_after_outer,
            "transformer.h.0.mlp had run already; read modules in the order in which they run: "
            "transformer.h.0.mlp, transformer.h.0",
        ),
        (not_saved, "hidden was not saved: inside the trace write hidden = ....save()"),
        (
            no_input,
            "the trace has no input: give it a prompt, trace(prompt), or open an invoke in it",
        ),
        (invoke_in_invoke, "an invoke was opened inside of another: open them one after the other"),
        (tuple_as_tensor, "the value is a tuple, the tensor is its first element: .output[0]"),
        (tuple_written_to, "the value is a tuple, the tensor is its first element: .output[0]"),
        (
            meta_tensor,
            "a tensor on the meta device has no numbers: a weight that accelerate has offloaded, "
            "or a model that is not dispatched",
        ),
        (no_such_module, "no module is called mpl; nearest: mlp"),
        (
            no_such_block,
            "there is no module of that number"
            if BEFORE_0_8
            else "there is no module of number 7; the longest list has 2",
        ),
        (
            assert_in_a_trace,
            "an assert inside a trace failed, where pytest cannot show its values"
            + ("" if BEFORE_0_8 else ": hidden.numel() is 320"),
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_mistake_is_explained(gpt2: Capture, mistake: Callable[[Any], Any], hint: str) -> None:
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - a class of its own each
        mistake(gpt2.model)
    found = nnsight_api.explain(raised.value, gpt2.model, mistake)
    assert found is not None
    assert found.partition(", m")[0] == hint


def late(m: Any) -> Any:
    with m.generate("Hello", max_new_tokens=3) as tracer:
        for _ in tracer.iter[:]:
            m.lm_head.output.save()
        logits = m.lm_head.output.save()
    return logits.shape


@pytest.mark.filterwarnings("ignore:.*was never reached")
def test_code_after_an_open_iteration(gpt2: Capture) -> None:
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - a class of its own each
        late(gpt2.model)
    hint = nnsight_api.explain(raised.value, gpt2.model, late)
    if nnsight_api.version() >= (0, 8):
        assert hint == (
            "logits is assigned after an iteration over all steps, where nnsight runs no code; "
            "give the iteration an end, or put what follows into an invoke of its own"
        )
    elif nnsight_api.version() < (0, 6):
        assert hint == "nnsight 0.5 iterates with `with tracer.iter[...]:`, not with a for loop"
    else:
        assert hint is not None
        assert "lm_head" in hint


def after_too_many_steps(m: Any) -> Any:
    with m.generate("Hello", max_new_tokens=2, do_sample=False) as tracer:
        for _ in tracer.iter[0:5]:
            m.lm_head.output.save()
        ids = tracer.result.save()
    return ids.shape


def of_a_step_that_never_came(m: Any) -> Any:
    with m.generate("Hello", max_new_tokens=2, do_sample=False) as tracer:
        for _ in tracer.iter[4]:
            ids = m.lm_head.output.save()
    return ids


@pytest.mark.filterwarnings("ignore:.*was (never reached|not provided)")
@pytest.mark.skipif(nnsight_api.version() < (0, 6), reason="0.5 iterates by a with block")
@pytest.mark.parametrize("mistake", [after_too_many_steps, of_a_step_that_never_came])
def test_more_steps_than_were_generated(gpt2: Capture, mistake: Callable[[Any], Any]) -> None:
    with pytest.raises(NameError) as raised:
        mistake(gpt2.model)
    assert nnsight_api.explain(raised.value, gpt2.model, mistake) == (
        "ids has no value: the iteration asks for more steps than were generated, and nnsight "
        "stopped it there; ask for steps that run (max_new_tokens, or the model ended earlier)"
    )


def test_a_model_without_a_tokenizer(gpt2: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt2.model, "tokenizer", None)
    hint = nnsight_api.explain(AttributeError("'NoneType' object"), gpt2.model, no_input)
    assert hint == (
        "the model has no tokenizer: give token ids, or tokenizer= where the model is wrapped"
    )


@pytest.mark.parametrize(
    "error", [ValueError("plainly"), AssertionError("1 == 2"), NameError("name 'x' is not defined")]
)
def test_other_errors_are_not_explained(gpt2: Capture, error: Exception) -> None:
    assert nnsight_api.explain(error, gpt2.model, no_input) is None


def test_an_error_that_only_names_a_variable_is_not_explained(gpt2: Capture) -> None:
    error = ValueError("name 'hidden' is taken")
    assert nnsight_api.explain(error, gpt2.model, not_saved) is None


def test_the_model_is_left_as_it_was(gpt2: Capture) -> None:
    """To find the order of modules the model runs once more, with hooks."""
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - a class of its own each
        out_of_order(gpt2.model)
    module = nnsight_api.torch_module(gpt2.model)
    before = {path: len(each._forward_hooks) for path, each in module.named_modules()}
    assert nnsight_api.explain(raised.value, gpt2.model, out_of_order)
    assert {path: len(each._forward_hooks) for path, each in module.named_modules()} == before
