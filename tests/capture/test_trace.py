"""``trace``: captured modules, their order, and the kinds of prompts."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import distance

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.compare.pairing import is_input
from pytest_nnsight.diagnose.diagnosis import diagnose
from pytest_nnsight.errors import UsageError
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.models import tiny
from pytest_nnsight.run import ROOT, Call, Run, Summary

PROMPT = "Hello there"
CACHE = r"(past_key_values|cache)"  # renamed in transformers 5.24
CaptureOf = Callable[..., Capture]


def places(call: Call) -> dict[str, Summary]:
    return {leaf.at: leaf.summary for leaf in call.leaves}


def output(call: Call) -> Summary:
    """Return the only tensor of an output: a block's is in a tuple up to transformers 5.2."""
    (summary,) = [leaf.summary for leaf in call.leaves if not is_input(leaf)]
    return summary


def hooked(module: torch.nn.Module) -> list[tuple[int, int]]:
    """Count the hooks of each module before and after its forward."""
    return [(len(part._forward_pre_hooks), len(part._forward_hooks)) for part in module.modules()]


def executed(capture: Capture, run: Callable[[], Any]) -> list[str]:
    """Return the modules that a run calls, in the order in which they return, by plain torch."""
    order: list[str] = []
    module = nnsight_api.torch_module(capture.model)
    handles = [
        part.register_forward_hook(lambda *_, path=path: order.append(path or ROOT))
        for path, part in module.named_modules()
    ]
    run()
    for handle in handles:
        handle.remove()
    return order


def given(capture: Capture, path: str) -> dict[str, Any]:
    """Return the arguments of a module's call by parameter name, with plain torch."""
    seen: dict[str, Any] = {}

    def see(module: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        _, *names = inspect.signature(type(module).forward).parameters
        seen.update(zip(names, arguments, strict=False), **keywords)

    module = nnsight_api.torch_module(capture.model).get_submodule(path)
    handle = module.register_forward_pre_hook(see, with_kwargs=True)
    capture.trace(PROMPT)
    handle.remove()
    return seen


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5"])
def test_every_call_is_kept_in_order_of_execution(capture_of: CaptureOf, family: str) -> None:
    capture = capture_of(f"tiny:{family}")
    runs: list[Run] = []
    order = executed(capture, lambda: runs.append(capture.trace(PROMPT)))
    assert [call.path for call in runs[0].calls] == order
    visits: dict[str, int] = {}
    for call in runs[0].calls:
        assert call.visit == visits.get(call.path, 0)
        visits[call.path] = call.visit + 1
    if family == "t5":
        assert visits["encoder.dropout"] == 2


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5"])
def test_summaries_are_those_of_a_plain_forward(capture_of: CaptureOf, family: str) -> None:
    capture = capture_of(f"tiny:{family}")
    run = capture.trace(PROMPT, keep=True)
    module = nnsight_api.torch_module(capture.model)
    ids = torch.tensor(run.prompt.token_ids)
    extra = {"decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)} if family == "t5" else {}
    with torch.no_grad():
        logits = module(input_ids=ids, **extra).logits
    assert torch.equal(run[ROOT].value.logits, logits)
    assert run[ROOT].output is run[ROOT].value.logits
    (summary,) = [leaf.summary for leaf in run.calls[-1].leaves if leaf.at == "out.logits"]
    assert summary.mean == pytest.approx(float(logits.double().mean()), rel=1e-5)
    assert summary.std == pytest.approx(float(logits.double().std(correction=0)), rel=1e-5)


def test_all_kinds_of_prompt(gpt2: Capture) -> None:
    tokenizer = gpt2.model.tokenizer
    ids = tokenizer(PROMPT)["input_ids"]
    text = gpt2.trace(PROMPT)
    for prompt in (ids, tuple(ids), torch.tensor(ids), torch.tensor([ids])):
        assert compare(text, gpt2.trace(prompt)).matches
    tensors = dict(tokenizer(PROMPT, return_tensors="pt"))
    assert compare(text, gpt2.trace(tensors)).matches
    batch = gpt2.trace([PROMPT, "Hi"])
    assert batch.prompt.is_batch
    assert [len(row) for row in batch.prompt.token_ids] == [len(ids), 2]
    chat = gpt2.trace([{"role": "user", "content": "Hi"}])
    assert tokenizer.decode(chat.prompt.token_ids[0]) == "user: Hi\nassistant: "
    assert chat.prompt.text == [{"role": "user", "content": "Hi"}]


def test_a_wrong_prompt_is_refused_before_the_model_runs(gpt2: Capture) -> None:
    for prompt in ([[1, 2], [3]], {"mask": torch.ones(1)}, 7, [1.5], None, {"input_ids": []}):
        with pytest.raises(UsageError):
            gpt2.trace(prompt)


def test_modules_are_chosen_by_globs(gpt2: Capture) -> None:
    assert gpt2.trace(PROMPT, modules="transformer.h.*").paths == [
        "transformer.h.0",
        "transformer.h.1",
    ]
    chosen = gpt2.trace(PROMPT, modules=["**.mlp", ROOT])
    assert chosen.paths == ["transformer.h.0.mlp", "transformer.h.1.mlp", ROOT]


def test_inputs_have_the_names_of_what_forward_takes(gpt2: Capture) -> None:
    """Blocks are called by position with their cache and more, which have names all the same."""
    calls = {call.path: call.inputs for call in gpt2.trace(PROMPT).calls}
    assert calls["lm_head"] == "{input=tensor}"
    block = calls["transformer.h.0"] or ""
    assert re.match(rf"{{hidden_states=tensor, {CACHE}=DynamicCache, ", block)
    assert re.findall(r"(\w+)=", block) == [*given(gpt2, "transformer.h.0")]


def test_containers_and_none(gpt2: Capture) -> None:
    calls = {call.path: call for call in gpt2.trace(PROMPT).calls}
    attention = calls["transformer.h.0.attn"]
    assert attention.output == "(tensor, None)"
    known = given(gpt2, "transformer.h.0.attn")
    assert known["attention_mask"] is None
    tensors = [name for name, value in known.items() if isinstance(value, torch.Tensor)]
    assert tensors[0] == "hidden_states"
    assert list(places(attention)) == [*(f"in.{name}" for name in tensors), "out[0]"]
    assert calls[ROOT].output.startswith("CausalLMOutputWithCrossAttentions(logits=tensor")
    assert re.search(f"{CACHE}=DynamicCache", calls[ROOT].output)


def test_inputs_are_summarised_unless_asked_not_to(gpt2: Capture) -> None:
    (call, _) = gpt2.trace(PROMPT, modules="transformer.h.*.mlp").calls
    assert call.inputs == "{hidden_states=tensor}"
    assert list(places(call)) == ["in.hidden_states", "out"]
    full = {c.path: places(c) for c in gpt2.trace(PROMPT).calls}
    assert distance(full["transformer.h.0.ln_2"]["out"], places(call)["in.hidden_states"]).is_same
    for call in gpt2.trace(PROMPT, inputs=False).calls:
        assert call.inputs is None
        assert not any(is_input(leaf) for leaf in call.leaves)


def test_a_tensor_seen_twice_is_one_summary(gpt2: Capture) -> None:
    run = gpt2.trace(PROMPT)
    calls = {call.path: places(call) for call in run.calls}
    (block,) = [call for call in run.calls if call.path == "transformer.h.0"]
    assert calls["lm_head"]["out"] is calls[ROOT]["out.logits"]
    assert calls["transformer.h.0.ln_2"]["out"] is calls["transformer.h.0.mlp"]["in.hidden_states"]
    assert output(block) is calls["transformer.h.1"]["in.hidden_states"]
    assert calls[ROOT]["in.input_ids"] is calls["transformer"]["in.input_ids"]


def test_what_entered_the_model_is_kept(gpt2: Capture) -> None:
    prompt = gpt2.trace(PROMPT).prompt
    assert "".join(prompt.pieces[0]) == PROMPT
    assert len(prompt.pieces[0]) == len(prompt.token_ids[0])
    batch = gpt2.trace([PROMPT, "Hi"]).prompt
    assert batch.tensors["attention_mask"] == ((1,) * 11, (0,) * 9 + (1,) * 2)
    assert [len(row) for row in batch.pieces] == [11, 2]
    assert "input_ids" not in batch.tensors


def test_an_operation_in_place_does_not_change_what_was_seen(gpt2: Capture) -> None:
    """The MLP's output is its dropout's very tensor: only later values show the change."""

    def zero(model: Any) -> None:
        model.transformer.h[0].mlp.output[:] = 0

    plain = {call.path: call for call in gpt2.trace(PROMPT).calls}
    run = gpt2.trace(PROMPT, intervene=zero, keep="transformer.h.0.mlp")
    changed = {call.path: call for call in run.calls}
    for path in ("transformer.h.0.mlp.c_proj", "transformer.h.0.mlp.dropout"):
        assert changed[path].leaves == plain[path].leaves
    assert places(changed["transformer.h.0.mlp"])["out"].maximum == 0
    assert changed["transformer.h.1"].leaves != plain["transformer.h.1"].leaves
    assert run.prompt.intervention == "zero"
    assert not run["transformer.h.0.mlp"].output.any()


def test_an_edit_in_place_is_where_a_drift_starts(gpt2: Capture) -> None:
    """The module's output was the very tensor of its last child."""

    def scale(model: Any) -> None:
        model.transformer.h[1].mlp.output[:] *= 1.01

    golden, run = gpt2.trace(PROMPT), gpt2.trace(PROMPT, intervene=scale)
    received = replace(run, prompt=golden.prompt)
    found = diagnose(golden, received, compare(golden, received))
    assert (found.where, found.start.label) == ("transformer.h.1.mlp",) * 2
    assert (found.cause, found.is_certain) == ("code", True)
    assert found.evidence.endswith("a patched module, a hook or an edit")


def test_an_intervention_may_take_the_tracer(gpt2: Capture) -> None:
    seen: list[Any] = []
    gpt2.trace(PROMPT, intervene=lambda model, tracer: seen.append(tracer))
    assert hasattr(seen[0], "cache")


def test_nothing_is_left_on_the_model(gpt2: Capture) -> None:
    """Before 0.8 nnsight registers hooks when it wraps a model; there are no others."""
    module = nnsight_api.torch_module(gpt2.model)
    gpt2.generate(PROMPT, max_new_tokens=2)
    assert all(parameter.grad is None for parameter in module.parameters())
    wrapped = nnsight_api.wrap(*tiny.build("gpt2", torch.float32, None))
    assert hooked(module) == hooked(nnsight_api.torch_module(wrapped))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_dtypes_are_near_float32(capture_of: CaptureOf, dtype: str) -> None:
    reference, run = (
        capture_of("tiny:llama").trace(PROMPT),
        capture_of("tiny:llama", dtype).trace(PROMPT),
    )
    assert run.environment.variant == f"cpu-{dtype}"
    comparison = compare(reference, run)
    assert comparison.matches, comparison.failures[:3]
    assert compare(run, capture_of("tiny:llama", dtype).trace(PROMPT)).drifts == ()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_masks_as_low_as_can_be_are_kept_in_a_golden(capture_of: CaptureOf, dtype: str) -> None:
    """Eager attention gets a float mask; in float64, sums of it are infinite."""
    run = capture_of("tiny:llama", dtype, "eager").trace([PROMPT, "Hi"])
    masks = [places(call).get("in.attention_mask") for call in run.calls]
    lowest = min(mask.minimum for mask in masks if mask is not None and mask.dtype == dtype)
    assert lowest == torch.finfo(getattr(torch, dtype)).min
    assert compare(decode(encode(run), "golden"), run).matches
