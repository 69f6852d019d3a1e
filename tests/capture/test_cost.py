"""The cost of a capture, counted rather than timed: passes over memory and called operations.

A change that reads every value once more, or dispatches more for each call, fails here on any
machine. `make bench` has the times.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pytest_nnsight import nnsight_api
from pytest_nnsight.capture.capture import Capture
from pytest_nnsight.run import Run
from pytest_nnsight.summary.summarizer import summarize

VIEWS = {"view", "reshape", "slice", "detach", "unsqueeze", "squeeze", "select", "as_strided"}
VIEWS |= {"unsafe_view", "expand", "transpose", "permute", "alias", "t", "unbind"}


class Counted(TorchDispatchMode):
    """Count operations of torch, those of numpy on tensors, and the bytes that they read."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.bytes = 0

    def __enter__(self) -> Counted:
        self.patch = pytest.MonkeyPatch()
        to_numpy = torch.Tensor.numpy

        def numpy(tensor: torch.Tensor) -> Read:
            array = to_numpy(tensor).view(Read)
            array.found = self
            return array

        self.patch.setattr(torch.Tensor, "numpy", numpy)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        self.patch.undo()
        super().__exit__(*raised)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.__name__.partition(".")[0].lstrip("_")
        self.operations[name] += 1
        if name not in VIEWS:
            self.bytes += sum(arg.nbytes for arg in args if isinstance(arg, torch.Tensor))
        return function(*args, **(kwargs or {}))


class Read(np.ndarray):
    """An array with the memory of a tensor; counts what numpy reads of it."""

    found: Counted | None = None

    def __array_finalize__(self, array: Any) -> None:
        self.found = getattr(array, "found", None)

    def __array_ufunc__(
        self, function: np.ufunc, method: str, *args: Any, out: Any = None, **kwargs: Any
    ) -> Any:
        if self.found is not None:
            self.found.operations[function.__name__] += 1
            self.found.bytes += sum(arg.nbytes for arg in args if isinstance(arg, np.ndarray))
        if out is not None:
            kwargs["out"] = tuple(map(as_array, out))
        return getattr(function, method)(*map(as_array, args), **kwargs)


def as_array(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, Read) else value


def counted(run: Callable[[], Any]) -> Counted:
    run()  # signs and weights are made once
    with Counted() as found:
        run()
    return found


@pytest.mark.parametrize(("width", "most"), [(576, 8.2), (1536, 8.2), (8192, 7.2)])
def test_a_large_tensor_is_read_few_times(width: int, most: float) -> None:
    """Six times: bounds, sum, norms, checksum and projection.

    A product of a tensor with itself counts twice, and of a narrow one the signs count as well.
    """
    tensor = torch.randn(1, 256, width)
    found = counted(lambda: summarize([tensor]))
    assert most - 0.2 < found.bytes / tensor.nbytes < most
    assert found.operations.total() < 36  # 22, and 31 of a wide one


def test_small_tensors_of_one_shape_are_measured_together() -> None:
    """One token's tensors cost their dispatch: a hundred take as many operations as one."""
    tensors = [torch.randn(1, 1, 64) for _ in range(100)]
    one = counted(lambda: summarize(tensors[:1])).operations
    many = counted(lambda: summarize(tensors)).operations
    assert many.total() - one.total() < 20


def test_large_tensors_of_one_shape_are_put_together_in_the_end() -> None:
    """Six operations read one; what is done with their results is done for several at once."""
    tensors = [torch.randn(1, 256, 576) for _ in range(8)]
    one = counted(lambda: summarize(tensors[:1])).operations
    many = counted(lambda: summarize(tensors)).operations
    assert many.total() - one.total() < 7 * 9  # 8, of which 2 are views


@pytest.mark.skipif(nnsight_api.version() < (0, 8), reason="its trace runs in another thread")
def test_a_call_of_a_generation_costs_a_few_operations(gpt2: Capture) -> None:
    def plain() -> None:
        module = nnsight_api.torch_module(gpt2.model)
        ids = torch.tensor([[44, 73, 80]])
        module.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False
        )

    calls = len(gpt2.generate([44, 73, 80], max_new_tokens=8).calls)
    ours = counted(lambda: gpt2.generate([44, 73, 80], max_new_tokens=8)).operations.total()
    more = ours - counted(plain).operations.total()
    assert more / calls < 7  # 4.4 with transformers 5.23


@pytest.mark.skipif(nnsight_api.version() < (0, 8), reason="its cache cannot drop one input")
@pytest.mark.parametrize("prompts", [1, 2])
def test_a_late_step_hands_over_only_the_inputs_that_are_recorded(
    gpt2: Capture, prompts: int
) -> None:
    ids = [[44, 73, 80], [81, 82, 83]]

    def received(steps: int) -> tuple[int, Run]:
        paths: list[str] = []
        capture = replace(gpt2, reached=paths.append)
        if prompts == 1:
            run = capture.generate(ids[0], max_new_tokens=steps)
        else:
            run = capture.generate_each(ids, max_new_tokens=steps)[0]
        return len(paths) // prompts, run

    (fewer, short), (more, long) = received(5), received(6)
    last_step = long.calls[len(short.calls) :]
    inputs = [call for call in last_step if call.inputs is not None]
    assert 0 < len(inputs) < len(last_step)
    assert more - fewer == len(last_step) + len(inputs)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_garbage_collector_is_paused_during_a_capture(gpt2: Capture, is_enabled: bool) -> None:
    """Set off by thousands of records, it would go through all of torch each time."""
    ran: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        ran.extend([info["generation"]] if phase == "start" else [])

    if not is_enabled:
        gc.disable()
    gc.callbacks.append(note)
    try:
        gpt2.generate([44, 73, 80], max_new_tokens=8)
        assert gc.isenabled() == is_enabled
    finally:
        gc.callbacks.remove(note)
        gc.enable()
    assert ran == ([0] if is_enabled else [])
