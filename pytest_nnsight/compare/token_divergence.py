"""Where two generations part: which token was chosen otherwise, and how near the choice was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.run import ROOT, Run
from pytest_nnsight.summary.packing import read_norms

_SIGMAS = 4.5  # of one logit's noise; the difference of two has 1.4 times as much
_LEAST = 1e-5  # the drift that float32 is allowed
_LAST_BIT = {"bfloat16": 2.0**-7, "float16": 2.0**-10}  # of a number from 1 to 2


@dataclass(frozen=True, slots=True)
class TokenDivergence:
    """The first token that two generations do not share, in step ``step`` of prompt ``row``.

    ``expected`` and ``received`` are the two tokens as text, ids where there is none. ``margin`` is
    the sum of the two margins: by how much one logit moved against the other. ``noise`` is what
    the drift of the logits at that step accounts for. Both are in units of logits.
    """

    row: int
    step: int
    expected: str
    received: str
    margin: float
    noise: float

    @property
    def is_near_tie(self) -> bool:
        """Whether the choice was so near that the noise of this step explains it."""
        return math.isfinite(self.margin) and self.margin <= self.noise

    @property
    def tokens(self) -> str:
        """The step and both tokens: ``step 3: ' a' -> ' the'``."""
        return f"step {self.step}: {self.expected} -> {self.received}"

    @property
    def closeness(self) -> str:
        """By how little a near tie fell the other way, in words."""
        return f"near tie at {self.tokens}, margin {self.margin:.2g}, noise {self.noise:.2g}"


def divergence_place(golden: Run, received: Run) -> tuple[int, int] | None:
    """Return step and row of the first generated token that differs, ``None`` for none."""
    if golden.generated is None or received.generated is None:
        return None
    places = []
    rows = zip(golden.generated.token_ids, received.generated.token_ids, strict=False)
    for row, (old, new) in enumerate(rows):
        if old != new:
            pairs = enumerate(zip(old, new, strict=False))
            step = next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))
            places.append((step, row))
    return min(places, default=None)


def shared_step(golden: Run, received: Run, place: tuple[int, int]) -> int:
    """Return the last step that both generations made from the same past, -1 for none.

    ``place`` is where they part. Where one of them ended there, only the other went on.
    """
    step, row = place
    ends = [len(run.generated.token_ids[row]) for run in (golden, received) if run.generated]
    return step - 1 if step >= min(ends) else step


def calls_until(run: Run, step: int) -> int:
    """Return how many calls belong to the steps up to ``step``, which have the same past.

    A step ends with the module that ends the run, as the model itself or its head. Others may be
    visited more often, or, as an encoder, in the first step alone.
    """
    assert run.generated is not None
    steps = max((len(row) for row in run.generated.token_ids), default=0)
    if not run.calls or not steps:
        return len(run.calls)
    ends = [i for i, call in enumerate(run.calls) if call.path == run.calls[-1].path]
    last = (step + 1) * max(1, len(ends) // steps)
    return 0 if last <= 0 else ends[last - 1] + 1 if last <= len(ends) else len(run.calls)


def first_divergence(
    golden: Run, received: Run, values: Mapping[tuple[int, str], Distance]
) -> TokenDivergence | None:
    """Describe the first token that differs; ``values`` are the distances by call and place."""
    place = divergence_place(golden, received)
    if place is None:
        return None
    step, row = place
    margins = [
        _margin(run.generated.margins, row, step) for run in (golden, received) if run.generated
    ]
    return TokenDivergence(
        row=row,
        step=step,
        expected=_token(golden, row, step),
        received=_token(received, row, step),
        margin=sum(margins) if golden.prompt.generation.get("do_sample") is False else np.inf,
        noise=_logit_noise(golden, row, step, values),
    )


def _margin(margins: tuple[bytes, ...], row: int, step: int) -> float:
    numbers = np.frombuffer(margins[row], "<f4") if row < len(margins) else np.empty(0)
    return float(numbers[step]) if step < len(numbers) else float("inf")


def _token(run: Run, row: int, step: int) -> str:
    """Return a generated token as text, its id where its text is unknown."""
    assert run.generated is not None
    ids = run.generated.token_ids[row]
    if step >= len(ids):
        return "end"
    pieces = run.generated.pieces[row] if row < len(run.generated.pieces) else ()
    return repr(pieces[step]) if step < len(pieces) and pieces[step] else f"id {ids[step]}"


def _logit_noise(
    golden: Run, row: int, step: int, values: Mapping[tuple[int, str], Distance]
) -> float:
    """Return what the drift of all logits at a step may move one of them by against another.

    The drift of a token is the norm of its change over its norm; a change that is spread evenly
    moves each of ``n`` logits by the norm of the change over the root of ``n``. Logits that are
    equal bit by bit have no noise, others at least that of float32 on other kernels. In half types
    the logits themselves are rounded: each of the two margins may be off by a last bit.
    """
    for index, call in enumerate(golden.calls):
        if call.visit != step or (call.path != ROOT and not call.path.endswith("lm_head")):
            continue
        for leaf in call.leaves:
            drift = values.get((index, leaf.at))
            summary = leaf.summary
            if leaf.at not in ("out", "out.logits") or drift is None or not summary.norms:
                continue
            if len(summary.shape) != 3 or row >= summary.shape[0]:
                continue
            norm = read_norms(summary.norms)[(row + 1) * summary.shape[1] - 1]
            if drift.is_same:
                return 0.0
            moved = max(drift.rms, _LEAST) * norm / np.sqrt(summary.shape[2])
            bit = _LAST_BIT.get(golden.environment.dtype, 0.0)
            largest = max(abs(summary.maximum or 0.0), abs(summary.minimum or 0.0))
            return float(_SIGMAS * moved + 2 * bit * 2.0 ** math.frexp(largest)[1] / 2)
    return 0.0
