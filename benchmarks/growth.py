"""Measure how the cost grows with modules, tokens, steps and tests.

Each growth is measured at three sizes. Its exponent comes from the first and the last, without the
constant part, such as the start of a session: 1 is linear, 2 is quadratic.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.llama import random_llama
from benchmarks.row import Row
from benchmarks.session import run, write
from benchmarks.turns import take_turns

STEEPEST = 1.1  # exponent; a few runs give it to about 0.1
SIZES = {
    "modules": (4, 8, 16),
    "tokens": (128, 362, 1024),
    "steps": (8, 23, 64),
    "tests": (20, 200, 2000),
}


@dataclass(frozen=True, slots=True)
class Growth:
    """Hold the seconds at each size; ``plain`` are those of the model alone, if measured."""

    name: str
    sizes: tuple[int, ...]
    ours: tuple[float, ...]
    plain: tuple[float, ...] = ()

    @property
    def exponent(self) -> float:
        """The exponent of our growth: 1 is linear."""
        more, longer = self.sizes[-1] / self.sizes[0], self.ours[-1] / self.ours[0]
        return math.log(longer) / math.log(more)


def measure(model: str, rounds: int) -> Iterator[Row]:
    """Yield the exponent of each growth, with its points."""
    for growth in grow(model, rounds):
        times = growth.sizes[-1] // growth.sizes[0]
        name = f"cost of {times} x {growth.name}: exponent of its growth, 1 is linear"
        points = (growth.sizes, growth.ours, growth.plain)
        yield Row(name, growth.exponent, STEEPEST, 1, points=points)


def grow(model: str, rounds: int) -> Iterator[Growth]:
    """Measure every growth: modules on built-in Llamas, tokens and steps on the model itself."""
    import torch

    from benchmarks.subject import Subject, exactly

    torch.set_num_threads(1)
    llamas = [llama(layers) for layers in SIZES["modules"]]
    yield _growth(
        "modules",
        [lambda one=one: one.forward(one.prompt(64)) for one in llamas],
        [lambda one=one: one.capture.trace(one.prompt(64)) for one in llamas],
        3 * rounds,
    )
    subject = Subject.load(model)
    prompts = [subject.prompt(tokens) for tokens in SIZES["tokens"]]
    yield _growth(
        "tokens",
        [lambda ids=ids: subject.forward(ids) for ids in prompts],
        [lambda ids=ids: subject.capture.trace(ids) for ids in prompts],
        max(3, rounds // 2),
    )
    ids = subject.prompt(16)
    yield _growth(
        "steps",
        [lambda steps=steps: subject.generate(ids, steps) for steps in SIZES["steps"]],
        [
            lambda steps=steps: subject.capture.generate(ids, **exactly(steps))
            for steps in SIZES["steps"]
        ],
        max(3, rounds // 2),
    )
    yield of_tests()


def _growth(
    name: str, plain: list[Callable[[], Any]], ours: list[Callable[[], Any]], rounds: int
) -> Growth:
    taken = [statistics.median(times) for times in take_turns([*plain, *ours], rounds)]
    return Growth(name, SIZES[name], tuple(taken[3:]), tuple(taken[:3]))


def llama(layers: int) -> Any:
    """Return a small Llama with a number of layers."""
    from benchmarks.subject import Subject
    from pytest_nnsight import nnsight_api
    from pytest_nnsight.models.identity import identify
    from pytest_nnsight.models.tiny import byte_tokenizer

    module = random_llama(layers, hidden=256, intermediate=512, heads=4)
    model = nnsight_api.wrap(module.eval(), byte_tokenizer(adds_bos=True))
    return Subject.of(model, lambda of: identify(of, None))


TESTS = """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_run(number, nnsight_capture, nnsight_golden):
    assert nnsight_capture.trace([1, 2, 3 + number % 100]) == nnsight_golden
"""


def of_tests() -> Growth:
    """Measure sessions of many tests, each with a golden, less the time for one test."""
    start, few = (min(_session(1 + count) for _ in range(5)) for count in (0, SIZES["tests"][0]))
    many = [_session(1 + count) for count in SIZES["tests"][1:]]
    seconds = [took - start for took in (few, *many)]
    return Growth("tests", SIZES["tests"], tuple(seconds))


def _session(count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), {"test_it.py": TESTS.format(count=count)})
        options = (
            "--nnsight-model=tiny:gpt2",
            "--nnsight-isolation=off",
            "-q",
            "--snapshot-update",
        )
        return run(Path(folder), *options).processor
