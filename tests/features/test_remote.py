"""Remote runs as NDIF runs them, with the server's side in this process."""

from __future__ import annotations

import io
import threading
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.capture.remote import Remote
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.errors import RemoteError, UsageError
from pytest_nnsight.run import Run

CITY = "The Eiffel Tower is in the city of"
NO_REMOTE = "they send traces in another way, which --nnsight-remote refuses"
FEW = ["model.embed_tokens", "model.layers.*", "lm_head"]


@pytest.fixture
def remote_capture(nnsight_capture: Capture, since_nnsight: Any) -> Capture:
    """Return a capture with remote runs, which nnsight runs in this process."""
    since_nnsight(8, NO_REMOTE)
    return replace(nnsight_capture, remote=Remote("local", nullcontext))


def assert_same(local: Run, remote: Run) -> None:
    """Assert that two runs have equal inputs and outputs, bit by bit."""
    comparison = compare(local, remote)
    assert not comparison.drifts
    assert comparison.bits.count == 0
    assert comparison.bits.is_expected
    assert [(call.key, call.inputs) for call in local.calls] == [
        (call.key, call.inputs) for call in remote.calls
    ]
    assert local.prompt == remote.prompt
    assert local.generated == remote.generated


@pytest.mark.feature("remote", "a trace, bit by bit as in this process")
def test_trace(remote_capture: Capture, nnsight_capture: Capture, nnsight_golden: Any) -> None:
    assert_same(nnsight_capture.trace(CITY), remote_capture.trace(CITY))
    assert remote_capture.trace(CITY, modules=FEW) == nnsight_golden


@pytest.mark.feature("remote", "a generation, its ids and the margin of each step")
def test_generation(remote_capture: Capture, nnsight_capture: Capture, nnsight_golden: Any) -> None:
    settings = {"max_new_tokens": 6, "modules": ["model.layers.29", "lm_head"]}
    run = remote_capture.generate(CITY, **settings)
    assert_same(nnsight_capture.generate(CITY, **settings), run)
    assert run.text.startswith(" Paris")
    assert len(run.generated.margins[0]) == 4 * 6
    assert run == nnsight_golden


@pytest.mark.feature("remote", "a sampled generation")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_sampled(remote_capture: Capture, nnsight_capture: Capture, nnsight_golden: Any) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": True, "seed": 5}
    settings["modules"] = ["transformer.h.*", "lm_head"]
    assert_same(
        nnsight_capture.generate(CITY, **settings), remote_capture.generate(CITY, **settings)
    )
    assert remote_capture.generate(CITY, **settings) == nnsight_golden


@pytest.mark.feature("remote", "a padded batch")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_batch(remote_capture: Capture, nnsight_capture: Capture, nnsight_golden: Any) -> None:
    prompts = [CITY, "Hello"]
    assert_same(nnsight_capture.trace(prompts), remote_capture.trace(prompts))
    assert remote_capture.trace(prompts, modules="transformer.h.*") == nnsight_golden


def less(value: torch.Tensor) -> torch.Tensor:
    """Stand for what an intervening function uses of its own file."""
    return value * FACTOR


FACTOR = 0.5


@pytest.mark.feature("remote", "an intervention, with the functions of its file")
def test_intervention(
    remote_capture: Capture, nnsight_capture: Capture, nnsight_golden: Any
) -> None:
    layer = 5

    def damp(model: Any, tracer: Any) -> None:
        mlp = model.model.layers[layer].mlp
        mlp.output[:] = less(mlp.output)

    run = remote_capture.trace(CITY, modules=FEW, intervene=damp)
    assert_same(nnsight_capture.trace(CITY, modules=FEW, intervene=damp), run)
    assert compare(nnsight_capture.trace(CITY, modules=FEW), run).drifts
    assert run == nnsight_golden


@pytest.mark.feature("remote", "kilobytes come back")
def test_the_result_has_kilobytes(remote_capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    results, run_remote = [], nnsight_api.run_remote
    record = lambda *arguments: results.append(run_remote(*arguments)) or results[-1]  # noqa: E731
    monkeypatch.setattr(nnsight_api, "run_remote", record)
    run = remote_capture.trace(" ".join([CITY] * 16))
    buffer = io.BytesIO()
    torch.save(results[0], buffer)
    summaries = {id(leaf.summary): leaf.summary for call in run.calls for leaf in call.leaves}
    tensor_bytes = sum(4 * torch.Size(summary.shape).numel() for summary in summaries.values())
    tokens = len(run.prompt.token_ids[0])
    assert (len(run.calls), tokens) == (396, 144)
    assert buffer.tell() < len(summaries) * (700 + 8 * tokens)
    assert buffer.tell() < tensor_bytes / 100


@pytest.mark.feature("remote", "options that would return tensors are refused")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_tensors_are_refused(remote_capture: Capture) -> None:
    with pytest.raises(UsageError, match="keep= does not work with --nnsight-remote, which"):
        remote_capture.trace(CITY, keep=True)
    with pytest.raises(UsageError, match="gradient_of= does not work with --nnsight-remote"):
        remote_capture.trace(CITY, gradient_of=lambda model: model.lm_head.output.sum())


@pytest.mark.feature("remote", "a function that cannot be sent is one line")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_a_function_that_cannot_be_sent_is_one_line(remote_capture: Capture) -> None:
    opened = threading.Lock()

    def write(model: Any) -> None:
        print(model.transformer.h[0].output, opened)

    with pytest.raises(RemoteError, match=r"^the trace cannot be sent \(") as error:
        remote_capture.trace(CITY, intervene=write)
    assert str(error.value).endswith("no golden was written")


@pytest.mark.feature("remote", "a stopped trace returns nothing, and the message says so")
@pytest.mark.nnsight(model="tiny:gpt2")
def test_a_stopped_trace(remote_capture: Capture) -> None:
    def stop(model: Any, tracer: Any) -> None:
        model.transformer.h[0].output.sum()
        tracer.stop()

    with pytest.raises(RemoteError, match=r"^the remote trace ended before the model had run"):
        remote_capture.trace(CITY, intervene=stop)
