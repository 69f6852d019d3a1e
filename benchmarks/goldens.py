"""Measure the size of goldens, the time to compare them, and fingerprints of weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.row import Row
from benchmarks.subject import Subject
from benchmarks.turns import ratio, take_turns
from pytest_nnsight.compare.comparison import compare
from pytest_nnsight.diagnose.diagnosis import Finding
from pytest_nnsight.golden.document import decode, encode
from pytest_nnsight.report.failure import diagnose_finding
from pytest_nnsight.run import Run
from pytest_nnsight.summary.fingerprint import fingerprint_parameters

GOALS = {10: 0.3, 256: 1.0}


def measure(model: str, rounds: int) -> Iterator[Row]:
    """Yield the rows of sizes, comparisons and fingerprints."""
    torch.set_num_threads(1)
    subject = Subject.load(model)
    for tokens, goal in GOALS.items():
        size = len(encode(subject.capture.trace(subject.prompt(tokens))).encode()) / 1e6
        yield Row(f"golden of a {tokens}-token trace, all calls", size, goal, unit="MB")
    yield from judging(subject, rounds)
    parameters = [*subject.module.parameters()]
    ways = (
        lambda: [parameter.sum() for parameter in parameters],
        lambda: fingerprint_parameters(subject.module),
    )
    summed, ours = take_turns(ways, rounds)
    yield Row("weight fingerprints over sum() of all parameters", ratio(ours, summed), 2.0, 1)


def judging(subject: Subject, rounds: int) -> Iterator[Row]:
    """Time comparison and diagnosis of a golden against the forward pass of its prompt."""
    ids = subject.prompt(256)
    text, same = encode(subject.capture.trace(ids)), subject.capture.trace(ids)
    with changed(subject):
        other = subject.capture.trace(ids)
    golden = decode(text, "golden")
    ways = (
        lambda: subject.forward(ids),
        lambda: compare(golden, same),
        lambda: judge(golden, other),
        lambda: decode(text, "golden"),
    )
    plain, matched, judged, read = take_turns(ways, rounds)
    name = "of a 256-token golden, over its forward"
    yield Row(f"compare {name}, no drift", ratio(matched, plain), 0.02, 1, digits=3)
    yield Row(f"compare and diagnose {name}, drift", ratio(judged, plain), 0.02, 1, digits=3)
    yield Row("  reading its file, over the same", ratio(read, plain), None, 1, digits=3)


def judge(golden: Run, received: Run) -> None:
    """Find where a drift starts and why."""
    assert diagnose_finding(
        Finding("golden", golden=golden, received=received, comparison=compare(golden, received))
    )


class changed:  # noqa: N801  # a context manager, named like a function
    """Change one weight for a while."""

    def __init__(self, subject: Subject) -> None:
        two = [p for p in subject.module.parameters() if p.ndim == 2]
        self._weight = two[len(two) // 2]

    def __enter__(self) -> None:
        self._values = self._weight.detach().clone()
        with torch.no_grad():
            self._weight.mul_(1.01)

    def __exit__(self, *error: object) -> None:
        with torch.no_grad():
            self._weight.copy_(self._values)
