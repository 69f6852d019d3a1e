"""Examples of nnsight's documentation as tests, one feature each.

Values are compared with goldens as plain dicts of tensors. Experiments that combine several
features are in ``test_documented_experiments``.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
import torch

CITY = "The Eiffel Tower is in the city of"
ROMAN = "The Colosseum is in the city of"
MINOR = int(metadata.version("nnsight").split(".")[1])


@pytest.mark.feature("documented examples", "trace: outputs of layers and of the model")
def test_trace(nnsight_model: Any, nnsight_golden: Any) -> None:
    with nnsight_model.trace(CITY):
        entering = nnsight_model.model.layers[3].input.save()
        attention = nnsight_model.model.layers[3].self_attn.output[0].save()
        leaving = nnsight_model.model.layers[3].output.save()
        logits = nnsight_model.lm_head.output.save()
    assert nnsight_model.tokenizer.decode(logits[0, -1].argmax()) == " Paris"
    values = {"entering": entering, "attention": attention, "leaving": leaving}
    assert values | {"logits": logits[:, -1]} == nnsight_golden


@pytest.mark.feature("documented examples", "trace: every layer in a loop")
def test_every_layer(nnsight_model: Any, nnsight_golden: Any) -> None:
    hidden = []
    with nnsight_model.trace(CITY):
        for layer in nnsight_model.model.layers:
            hidden.append(layer.output[0, -1].save())
    assert len(hidden) == 30
    assert {"hidden": torch.stack(hidden)} == nnsight_golden


@pytest.mark.feature("documented examples", "trace: branch on a value")
def test_branch_on_a_value(nnsight_model: Any, nnsight_golden: Any) -> None:
    with nnsight_model.trace(CITY):
        hidden = nnsight_model.model.layers[15].output
        if hidden.abs().max() > 1000:  # the first token's is a hundred times all others
            nnsight_model.model.layers[16].mlp.output[:, 0] = 0
        logits = nnsight_model.lm_head.output[:, -1].save()
    assert {"logits": logits} == nnsight_golden


@pytest.mark.feature("documented examples", "generate: token ids and text")
def test_generate(nnsight_model: Any, nnsight_golden: Any) -> None:
    with nnsight_model.generate(CITY, max_new_tokens=5, do_sample=False) as tracer:
        ids = tracer.result.save()
    assert nnsight_model.tokenizer.decode(ids[0]).startswith(CITY + " Paris")
    assert {"ids": ids} == nnsight_golden


@pytest.mark.feature("documented examples", "iteration: steps in a for loop")
def test_iteration(nnsight_model: Any, nnsight_golden: Any, since_nnsight: Any) -> None:
    since_nnsight(6, "steps are iterated by `with tracer.iter[...]` only")
    logits = []
    with nnsight_model.generate(CITY, max_new_tokens=4, do_sample=False) as tracer:
        for _ in tracer.iter[:4]:
            logits.append(nnsight_model.lm_head.output[0, -1].save())
        ids = tracer.result.save()
    steps = torch.stack(logits)
    assert steps.argmax(-1).tolist() == ids[0, -4:].tolist()
    assert {"logits": steps} == nnsight_golden


@pytest.mark.filterwarnings("ignore:.*tracer.iter")
@pytest.mark.feature("documented examples", "iteration: steps as a with block")
def test_iteration_in_a_with_block(nnsight_model: Any, nnsight_golden: Any) -> None:
    logits = []
    with nnsight_model.generate(CITY, max_new_tokens=4, do_sample=False) as tracer:  # noqa: SIM117  # nnsight reads blocks, not items
        with tracer.iter[1:3]:
            logits.append(nnsight_model.lm_head.output[0, -1].save())
    assert {"logits": torch.stack(logits)} == nnsight_golden


@pytest.mark.feature("documented examples", "gradients: of one value with respect to another")
def test_gradients(nnsight_model: Any, nnsight_golden: Any) -> None:
    with nnsight_model.trace(CITY):
        early = nnsight_model.model.layers[5].output
        late = nnsight_model.model.layers[20].output
        paris = nnsight_model.lm_head.output[0, -1, 7042]
        with paris.backward():
            late_gradient = late.grad.save()
            early_gradient = early.grad.save()
    nnsight_model.zero_grad()  # a backward pass leaves gradients on the parameters as well
    assert {"early": early_gradient, "late": late_gradient} == nnsight_golden


@pytest.mark.feature("documented examples", "scan: shapes without a run")
def test_scan(nnsight_model: Any, nnsight_golden: Any) -> None:
    shapes = []
    with nnsight_model.scan(CITY):
        shapes.append(list(nnsight_model.model.layers[0].self_attn.q_proj.output.shape))
        shapes.append(list(nnsight_model.model.layers[0].mlp.gate_proj.output.shape))
    assert shapes == [[1, 9, 576], [1, 9, 1536]]
    assert {"shapes": shapes} == nnsight_golden


@pytest.mark.feature("documented examples", "cache: many modules at once")
def test_cache(nnsight_model: Any, nnsight_golden: Any) -> None:
    attentions = [layer.self_attn for layer in nnsight_model.model.layers[:3]]
    with nnsight_model.trace(CITY) as tracer:
        cache = tracer.cache(modules=attentions)
    values = {name: cache[name].output[0] for name in cache.keys()}  # noqa: SIM118  # no dict
    assert [*values] == [f"model.model.layers.{number}.self_attn" for number in range(3)]
    assert values == nnsight_golden


@pytest.mark.feature("documented examples", "source: operations inside a module")
def test_source(nnsight_model: Any, nnsight_golden: Any) -> None:
    mlp = nnsight_model.model.layers[3].mlp
    with nnsight_model.trace(CITY):
        gate = mlp.source.self_act_fn_0.output.save()
        mlp.source.self_up_proj_0.output[:, -1] = 0
        given = mlp.output.save()
    assert given[:, :-1].any()
    assert not given[:, -1].any()
    assert {"gate": gate, "given": given} == nnsight_golden


@pytest.mark.feature("documented examples", "skip: a layer is left out")
def test_skip(nnsight_model: Any, nnsight_golden: Any) -> None:
    layers = nnsight_model.model.layers
    with nnsight_model.trace(CITY):
        before = layers[10].output.save()
        layers[11].skip(before)
        after = layers[11].output.save()
        logits = nnsight_model.lm_head.output[:, -1].save()
    assert torch.equal(before, after)
    assert {"after": after, "logits": logits} == nnsight_golden


@pytest.mark.feature("documented examples", "stop: later layers do not run")
def test_stop(nnsight_model: Any, nnsight_golden: Any) -> None:
    with nnsight_model.trace(CITY) as tracer:
        hidden = nnsight_model.model.layers[2].output.save()
        tracer.stop()
    assert {"hidden": hidden} == nnsight_golden


@pytest.mark.feature("documented examples", "session: a value from one trace in the next")
def test_session(nnsight_model: Any, nnsight_golden: Any) -> None:
    with nnsight_model.session():
        with nnsight_model.trace(CITY):
            paris = nnsight_model.model.layers[27].output[:, -1]
        with nnsight_model.trace(ROMAN):
            nnsight_model.model.layers[27].output[:, -1] = paris
            logits = nnsight_model.lm_head.output[:, -1].save()
    assert nnsight_model.tokenizer.decode(logits[0].argmax()) == " Paris"
    assert {"logits": logits} == nnsight_golden


@pytest.mark.feature("documented examples", "edit: in place, until it is cleared")
def test_edit(nnsight_model: Any, nnsight_golden: Any) -> None:
    with nnsight_model.edit(inplace=True):
        nnsight_model.model.layers[0].mlp.output[:] = 0
    with nnsight_model.trace(CITY):
        edited = nnsight_model.lm_head.output[:, -1].save()
    nnsight_model.clear_edits()
    with nnsight_model.trace(CITY):
        plain = nnsight_model.lm_head.output[:, -1].save()
    assert not torch.allclose(edited, plain)
    assert {"edited": edited, "plain": plain} == nnsight_golden


@pytest.mark.feature("documented examples", "edit: a copy")
def test_edited_copy(nnsight_model: Any, nnsight_golden: Any) -> None:
    with nnsight_model.edit() as edited:
        nnsight_model.model.layers[0].mlp.output[:] = 0
    if MINOR >= 8:
        _, edited = edited  # the tracer comes first
    with edited.trace(CITY):
        changed = edited.lm_head.output[:, -1].save()
    with nnsight_model.trace(CITY):
        plain = nnsight_model.lm_head.output[:, -1].save()
    assert not torch.allclose(changed, plain)
    assert {"changed": changed, "plain": plain} == nnsight_golden


@pytest.mark.feature("documented examples", "several prompts: invokes of one trace")
def test_invokes(nnsight_model: Any, nnsight_golden: Any) -> None:
    with nnsight_model.trace() as tracer:
        with tracer.invoke(CITY):
            first = nnsight_model.lm_head.output[:, -1].save()
        with tracer.invoke(ROMAN):
            second = nnsight_model.lm_head.output[:, -1].save()
        with tracer.invoke():
            both = nnsight_model.lm_head.output[:, -1].save()
    assert torch.equal(both, torch.cat([first, second]))
    assert {"both": both} == nnsight_golden
