"""Experiments of nnsight's documentation on a trained model, each short, with a golden.

Each test also asserts something that the model knows, since a golden accepts any values.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

CITY = "The Eiffel Tower is in the city of"
ROMAN = "The Colosseum is in the city of"
FILM = "I think this film is"
GIFT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture
def id_of(nnsight_model: Any) -> Any:
    """Return the id of a word that is one token."""

    def id_of(word: str) -> int:
        (token,) = nnsight_model.tokenizer.encode(word, add_special_tokens=False)
        return int(token)

    return id_of


@pytest.mark.feature("documented examples", "logit lens: where the answer appears")
def test_logit_lens(nnsight_model: Any, nnsight_golden: Any) -> None:
    guesses = []
    with torch.no_grad(), nnsight_model.trace(CITY):
        for layer in nnsight_model.model.layers:
            normed = nnsight_model.model.norm(layer.output[:, -1:])
            guesses.append(nnsight_model.lm_head(normed)[0, -1].save())
    lens = torch.stack(guesses)
    words = nnsight_model.tokenizer.batch_decode(lens.argmax(-1)[:, None])
    assert words.index(" Paris") == 28
    assert words[28:] == [" Paris", " Paris"]
    assert {"lens": lens} == nnsight_golden


@pytest.mark.feature("documented examples", "ablation: layer by layer, by its effect")
def test_ablation(nnsight_model: Any, nnsight_golden: Any, id_of: Any) -> None:
    answers = []
    for number in range(0, 30, 5):
        with torch.no_grad(), nnsight_model.trace(CITY):
            nnsight_model.model.layers[number].mlp.output[:] = 0
            answers.append(nnsight_model.lm_head.output[0, -1].save())
    effect = torch.stack(answers)[:, id_of(" Paris")]
    assert effect.argmin() == 0  # without the first of all nothing works
    assert {"effect": effect} == nnsight_golden


@pytest.mark.feature("documented examples", "mean ablation: a module returns its mean")
def test_mean_ablation(nnsight_model: Any, nnsight_golden: Any) -> None:
    with torch.no_grad(), nnsight_model.trace(CITY):
        output = nnsight_model.model.layers[4].mlp.output
        nnsight_model.model.layers[4].mlp.output = output.mean(1, keepdim=True).expand_as(output)
        after = nnsight_model.model.layers[4].output.save()
        logits = nnsight_model.lm_head.output[:, -1].save()
    assert {"after": after, "logits": logits} == nnsight_golden


@pytest.mark.feature("documented examples", "patching: position by layer, two traces")
def test_patching(nnsight_model: Any, nnsight_golden: Any, id_of: Any) -> None:
    layers = nnsight_model.model.layers
    clean, rows = [], []
    with torch.no_grad(), nnsight_model.trace(CITY):
        for number in (3, 15, 27):
            clean.append(layers[number].output.save())
    for number, hidden in zip((3, 15, 27), clean, strict=True):
        row = []
        for position in (3, 8):  # the landmark's last token, and the last of all
            with torch.no_grad(), nnsight_model.trace(ROMAN):
                layers[number].output[:, position] = hidden[:, position]
                row.append(nnsight_model.lm_head.output[0, -1].save())
        rows.append(torch.stack(row))
    logits = torch.stack(rows)
    restored = logits[..., id_of(" Paris")] - logits[..., id_of(" Rome")]
    assert restored[0, 0] > restored[0, 1]  # early the city hangs on the landmark,
    assert restored[2, 0] < 0 < restored[2, 1]  # late on the last token
    assert {"restored": restored} == nnsight_golden


@pytest.mark.feature("documented examples", "patching: between prompts of one trace")
def test_patching_in_one_trace(nnsight_model: Any, nnsight_golden: Any) -> None:
    layers = nnsight_model.model.layers
    with torch.no_grad(), nnsight_model.trace() as tracer:
        barrier = tracer.barrier(2)
        with tracer.invoke(CITY):
            hidden = layers[27].output[:, -1]
            barrier()
            clean = nnsight_model.lm_head.output[:, -1].save()
        with tracer.invoke(ROMAN):
            barrier()
            layers[27].output[:, -1] = hidden
            patched = nnsight_model.lm_head.output[:, -1].save()
    assert nnsight_model.tokenizer.decode(patched[0].argmax()) == " Paris"
    assert {"clean": clean, "patched": patched} == nnsight_golden


@pytest.mark.feature("documented examples", "attribution patching: by one gradient")
def test_attribution_patching(nnsight_model: Any, nnsight_golden: Any, id_of: Any) -> None:
    paris, rome = id_of(" Paris"), id_of(" Rome")
    layers = nnsight_model.model.layers
    with torch.no_grad(), nnsight_model.trace(CITY):
        clean = layers[20].output.save()
    with nnsight_model.trace(ROMAN):
        hidden = layers[20].output
        last = nnsight_model.lm_head.output[0, -1]
        difference = last[paris] - last[rome]
        with difference.backward():
            gradient = hidden.grad.save()
        corrupted = hidden.detach().save()
    nnsight_model.zero_grad()
    effect = ((clean - corrupted) * gradient).sum(-1)[0]
    assert effect.abs().argmax() in (1, 2, 3)  # the landmark's tokens
    assert {"effect": effect} == nnsight_golden


@pytest.fixture
def dislike(nnsight_model: Any) -> Any:
    """Return the direction from praise to dislike in the residual stream after layer 16."""
    ends = []
    for prompt in ("I love this, it is wonderful", "I hate this, it is terrible"):
        with torch.no_grad(), nnsight_model.trace(prompt):
            ends.append(nnsight_model.model.layers[16].output[0, -1].save())
    return ends[1] - ends[0]


@pytest.mark.feature("documented examples", "steering: a direction changes the text")
def test_steering(nnsight_model: Any, nnsight_golden: Any, dislike: Any) -> None:
    endings = []
    for strength in (0, 2):
        with nnsight_model.generate(FILM, max_new_tokens=8, do_sample=False) as tracer:
            nnsight_model.model.layers[16].output[:, -1] += strength * dislike
            ids = tracer.result.save()
        endings.append(nnsight_model.tokenizer.decode(ids[0, -8:]))
    assert endings == [" a great example of how a single,", " bad. It's just a bunch of"]
    assert {"dislike": dislike, "ids": ids} == nnsight_golden


@pytest.mark.feature("documented examples", "steering: at every step")
def test_steering_of_every_step(
    nnsight_model: Any, nnsight_golden: Any, dislike: Any, since_nnsight: Any
) -> None:
    since_nnsight(6, "steps are iterated by `with tracer.iter[...]` only")
    with nnsight_model.generate(FILM, max_new_tokens=6, do_sample=False) as tracer:
        for _ in tracer.iter[:6]:
            nnsight_model.model.layers[16].output[:, -1] += dislike
        ids = tracer.result.save()
    assert nnsight_model.tokenizer.decode(ids[0, -6:]) == " a complete waste of money."
    assert {"ids": ids} == nnsight_golden


@pytest.mark.nnsight(attn="eager")
@pytest.mark.feature(
    "documented examples", "attention patterns: a head that attends to the previous token"
)
def test_attention_patterns(nnsight_model: Any, nnsight_golden: Any) -> None:
    with torch.no_grad(), nnsight_model.trace(GIFT):
        pattern = nnsight_model.model.layers[11].self_attn.output[1][0].save()
    rows = torch.ones(pattern.shape[:2])
    assert torch.allclose(pattern.sum(-1), rows)
    looks_back = pattern.diagonal(-1, -2, -1).mean(-1)
    assert looks_back.argmax() == 1
    assert looks_back[1] > 0.7
    assert {"pattern": pattern} == nnsight_golden


@pytest.mark.feature("documented examples", "heads: the head that copies a name (indirect object)")
def test_one_head(nnsight_model: Any, nnsight_golden: Any, id_of: Any) -> None:
    logits = []
    for head in range(9):
        with torch.no_grad(), nnsight_model.trace(GIFT):
            merged = nnsight_model.model.layers[23].self_attn.o_proj.input
            merged[:, -1, 64 * head : 64 * head + 64] = 0
            logits.append(nnsight_model.lm_head.output[0, -1].save())
    without = torch.stack(logits)
    left = without[:, id_of(" Mary")] - without[:, id_of(" John")]
    assert left.argmin() == 3
    assert {"left": left} == nnsight_golden


@pytest.mark.feature("documented examples", "an autoencoder in the residual stream")
def test_autoencoder(nnsight_model: Any, nnsight_golden: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    encode = torch.randn(576, 64, generator=generator) / 24
    with torch.no_grad(), nnsight_model.trace(CITY):
        hidden = nnsight_model.model.layers[8].output
        features = torch.relu(hidden @ encode).save()
        nnsight_model.model.layers[8].output = features @ encode.T
        logits = nnsight_model.lm_head.output[:, -1].save()
    assert {"features": features, "logits": logits} == nnsight_golden


@pytest.mark.nnsight(tolerance=1e-3)  # steps grow the rounding of each before
@pytest.mark.feature("documented examples", "training: a vector learns to give an answer")
def test_training(nnsight_model: Any, nnsight_golden: Any, id_of: Any) -> None:
    answer = torch.tensor(id_of(" Paris"))
    shift = torch.zeros(576, requires_grad=True)
    optimizer = torch.optim.SGD([shift], lr=5.0)
    losses = []
    for _ in range(3):
        with nnsight_model.trace(ROMAN):
            nnsight_model.model.layers[25].output[:, -1] += shift
            logits = nnsight_model.lm_head.output[0, -1]
            loss = torch.nn.functional.cross_entropy(logits, answer).save()
        shift.grad = torch.autograd.grad(loss, shift)[0]  # of the vector alone
        optimizer.step()
        losses.append(loss.detach())
    assert losses[0] > losses[1] > losses[2]
    assert {"losses": torch.stack(losses), "shift": shift.detach()} == nnsight_golden
