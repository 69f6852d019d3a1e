"""Measure how small a change of one weight matrix each strategy still finds.

The size of a change is relative to the matrix's norm (that of one embedding row to the row's); the
drift is the worst token's, in full tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.faults.captured import Captured, differences
from benchmarks.faults.ours import answer
from benchmarks.faults.probe import SENTENCE, Probe
from benchmarks.faults.subject import Golden, Say, Subject
from benchmarks.faults.table import aligned
from benchmarks.faults.variant import Variant
from pytest_nnsight.summary.fingerprint import fingerprint_parameters

MODELS = ("smollm2", "tiny:llama")
TOKENS = 256
SIZES = tuple(m * 10.0**-e for e in range(3, 8) for m in (1.0, 0.5, 0.2))[:-2]
_PLACES = ("down first", "query middle", "up last", "attention_out middle")

Change = Callable[[Variant, int, float], None]


@dataclass(frozen=True, slots=True)
class Point:
    """Hold one perturbed matrix: its size, its drift, and which strategies find it."""

    kind: str
    size: float
    drift: float
    by_full: bool
    by_ours: bool


def dense(variant: Variant, trial: int, size: float) -> None:
    """Add noise to all elements of a matrix."""
    matrix = variant.matrix(_PLACES[trial % len(_PLACES)])
    values = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(trial))
    matrix += values * (size * matrix.norm() / values.norm())


def element(variant: Variant, trial: int, size: float) -> None:
    """Add to one element of a matrix."""
    matrix = variant.matrix(_PLACES[trial % len(_PLACES)])
    matrix[17 + trial, 5 + 3 * trial] += size * matrix.norm()


def row(variant: Variant, trial: int, size: float) -> None:
    """Rotate one token's embedding slightly."""
    weight = variant.writable(variant.at("embedding").weight)
    token = int(variant.probe.prompt[0, a_position(trial)])
    values = torch.randn(weight.shape[1], generator=torch.Generator().manual_seed(trial))
    weight[token] += values * (size * weight[token].norm() / values.norm())


def a_position(trial: int) -> int:
    """Return a position in the prompt."""
    return 3 + 40 * trial


KINDS: dict[str, Change] = {"dense noise": dense, "one element": element, "one embedding row": row}


def measure(subject: Subject, line: float, trials: int, say: Say) -> list[Point]:
    """Perturb one matrix after the other, at all sizes."""
    ids = subject.model.tokenizer(SENTENCE * 40)["input_ids"][:TOKENS]
    golden = subject.golden(Probe("curve", "trace", torch.tensor([ids])))
    points = []
    for kind, change in KINDS.items():
        say(f"{subject.name}: {kind}, {len(SIZES)} sizes, {trials} places\n")
        for size in SIZES:
            points += [point(subject, golden, kind, change, t, size, line) for t in range(trials)]
    return points


def point(
    subject: Subject,
    golden: Golden,
    kind: str,
    change: Change,
    trial: int,
    size: float,
    line: float,
) -> Point:
    """Perturb, run, and compare."""
    with subject.variant(golden.probe) as variant:
        change(variant, trial, size)
        received = Captured.of(variant.run())
        drift = max(d.worst for d in differences(golden.captured, received))
        module = variant.module
        ours = answer(
            golden.run, received.run, subject.weights, lambda: fingerprint_parameters(module)
        )
    return Point(kind, size, drift, drift > line, ours.found)


def table(name: str, points: Sequence[Point]) -> str:
    """Return the share found at each size, and the smallest drift that each strategy finds."""
    rows = [(f"{name}, {TOKENS} tokens", *(f"{size:.0e}" for size in SIZES))]
    for kind in KINDS:
        chosen = [p for p in points if p.kind == kind]
        for label, attribute in (("full tensors", "by_full"), ("ours", "by_ours")):
            shares = []
            for size in SIZES:
                found = [getattr(p, attribute) for p in chosen if p.size == size]
                shares.append(f"{sum(found)}/{len(found)}")
            rows.append((f"{kind}, {label}", *shares))
    return "\n".join([aligned(rows), *(smallest(kind, points) for kind in KINDS)])


def smallest(kind: str, points: Sequence[Point]) -> str:
    """Say from which drift each strategy finds all, and how many times larger ours is."""
    chosen = sorted((p for p in points if p.kind == kind), key=lambda p: p.drift)
    full = next((p.drift for p in chosen if p.by_full), None)
    ours = next((p.drift for p in chosen if p.by_ours), None)
    surely = next(
        (p.drift for i, p in enumerate(chosen) if all(q.by_ours for q in chosen[i:])), None
    )
    if full is None or ours is None or surely is None:
        return f"{kind}: not found"
    return (
        f"{kind}: full tensors from a drift of {full:.1e}, ours first at {ours:.1e} "
        f"({ours / full:.1f} times) and always from {surely:.1e} ({surely / full:.1f} times)"
    )
