"""`BatchSplitter`: which dimensions of a tensor count prompts and tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pytest_nnsight.capture.batch_splitter import BatchSplitter
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.capture.recorder import Recorder
from pytest_nnsight.errors import UsageError

LEFT = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])
HOLES = torch.tensor([[1, 0, 1, 0, 1], [1, 1, 1, 1, 1]])


def splitter_of(mask: torch.Tensor, queries: int | None = None) -> BatchSplitter:
    """Return the splitter of a batch of two prompts with this mask."""
    recorders = [Recorder({}, {}, set(), 1, set()) for _ in mask]
    splitter = BatchSplitter(recorders, ("input_ids",))
    ids = torch.zeros(2, queries or mask.shape[1], dtype=torch.long)
    splitter.receive("", "inputs", ((ids,), {"attention_mask": mask}))
    return splitter


def shapes(
    splitter: BatchSplitter, *shape: int, dtype: torch.dtype = torch.float32
) -> list[tuple[int, ...]]:
    return [tuple(row.shape) for row in splitter._split(torch.zeros(shape, dtype=dtype))]


@pytest.mark.parametrize(
    ("shape", "dtype", "first"),
    [
        ((2, 5), torch.long, (1, 2)),
        (
            (2, 5),
            torch.float32,
            (1, 5),
        ),  # features, as a pooled output: as many as tokens by chance
        ((2, 5, 8), torch.float32, (1, 2, 8)),
        ((2, 8, 5), torch.float32, (1, 8, 2)),
        ((2, 4, 5, 16), torch.float32, (1, 4, 2, 16)),
        ((2, 5, 4, 16), torch.float32, (1, 2, 4, 16)),
        ((2, 4, 5, 5), torch.float32, (1, 4, 2, 2)),
        ((2, 1, 5, 5), torch.bool, (1, 1, 2, 2)),
        ((10, 3), torch.float32, (2, 3)),
        ((1, 5), torch.long, (1, 2)),
        ((1, 5, 8), torch.float32, (1, 2, 8)),
        ((5, 5, 4), torch.float32, (2, 2, 4)),
        ((5,), torch.long, (2,)),
        ((7, 3), torch.float32, (7, 3)),
        ((), torch.float32, ()),
    ],
)
def test_the_first_prompt_keeps_its_two_tokens(
    shape: tuple[int, ...], dtype: torch.dtype, first: tuple[int, ...]
) -> None:
    cut = shapes(splitter_of(LEFT), *shape, dtype=dtype)
    whole = tuple(1 if i == 0 and shape[0] == 2 else n for i, n in enumerate(shape))
    assert cut[0] == first
    assert cut[1] == ((5, 3) if shape == (10, 3) else whole)


def test_tokens_are_those_that_the_mask_shows() -> None:
    value = torch.arange(10.0).reshape(2, 5, 1)
    assert splitter_of(LEFT)._split(value)[0].flatten().tolist() == [3, 4]
    assert splitter_of(HOLES)._split(value)[0].flatten().tolist() == [0, 2, 4]
    assert splitter_of(HOLES)._split(value)[1].flatten().tolist() == [5, 6, 7, 8, 9]


def test_a_later_step_has_one_query_and_splits_the_keys() -> None:
    splitter = splitter_of(LEFT, queries=1)
    assert shapes(splitter, 2, 1, 5)[0] == (1, 1, 5)  # hidden states of five features
    assert shapes(splitter, 2, 4, 1, 5)[0] == (1, 4, 1, 2)
    assert shapes(splitter, 2, 4, 5, 16)[0] == (1, 4, 2, 16)


def test_concatenated_tokens_are_the_last_ones_of_each_prompt() -> None:
    splitter = splitter_of(LEFT, queries=3)  # of a prompt that comes in parts
    assert splitter._split(torch.arange(6.0).reshape(6, 1))[0].flatten().tolist() == [1, 2]


def test_an_unchanged_tensor_is_split_once() -> None:
    splitter, value = splitter_of(LEFT), torch.zeros(2, 5, 8)
    assert splitter._split(value)[0] is splitter._split(value)[0]
    before = splitter._split(value)[0]
    value += 1
    assert splitter._split(value)[0] is not before
    key = id(value)
    del value
    assert key not in splitter._cache  # else every activation of a run would be held


def test_as_many_heads_as_tokens_are_a_problem() -> None:
    splitter = splitter_of(LEFT)
    splitter._split(torch.zeros(2, 5, 5, 16))
    assert splitter.problem.startswith("a tensor [2, 5, 5, 16] has as many heads as")
    padded = splitter_of(torch.ones(2, 5))
    padded._split(torch.zeros(2, 5, 5, 16))
    assert padded.problem == ""


@pytest.mark.parametrize(
    ("prompts", "arguments", "message"),
    [
        (["Hello"], {}, "a list of two prompts or more"),
        ([["Hello", "Hi"], "x"], {}, "a list of two prompts or more, each a single one"),
        (["a", "b"], {"intervene": [None]}, "intervene has 1 functions for 2 prompts"),
    ],
)
def test_wrong_arguments_are_one_line(
    gpt2: Capture, prompts: Any, arguments: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        gpt2.trace_each(prompts, **arguments)


def test_as_many_heads_as_tokens_are_one_line(gpt2: Capture) -> None:
    with pytest.raises(UsageError, match="make the longest prompt a token longer"):
        gpt2.trace_each(["Four", "it"], operations="**.attn.source.attention_interface")


@pytest.mark.parametrize("family", ["tiny:gpt2", "tiny:llama"])
def test_prompts_as_token_ids(capture_of: Callable[..., Capture], family: str) -> None:
    capture = capture_of(family)
    runs = capture.trace_each([[5, 6, 7], [8, 9, 10]], modules="lm_head", keep=True)
    alone = capture.trace([8, 9, 10], modules="lm_head", keep=True)
    torch.testing.assert_close(runs[1]["lm_head"].output, alone["lm_head"].output)
    assert [run.prompt.token_ids for run in runs] == [((5, 6, 7),), ((8, 9, 10),)]


def test_only_those_that_take_the_barrier_are_waited_for(gpt2: Capture) -> None:
    seen: dict[str, torch.Tensor] = {}

    def read(model: Any, tracer: Any, barrier: Any) -> None:
        seen["first"] = model.transformer.h[0].output[:, -1]
        barrier()

    def zero(model: Any) -> None:
        model.transformer.h[0].mlp.output[:] = 0

    def write(model: Any, tracer: Any, barrier: Any) -> None:
        barrier()
        model.transformer.h[0].output[:, -1] = seen["first"]

    runs = gpt2.trace_each(["abc", "def", "ghi"], keep=True, intervene=[read, zero, write])
    first, _, third = (run["transformer.h.0"].output[0, -1] for run in runs)
    assert torch.equal(first, third)
