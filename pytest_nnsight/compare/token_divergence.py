"""The first token that two generations do not share, and whether the choice was a near tie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_nnsight.compare.distance import Distance
from pytest_nnsight.compare.positions import ends_of_steps
from pytest_nnsight.run import ROOT, Call, Run
from pytest_nnsight.summary.packing import read_norms

_SIGMAS = 4.5  # of one logit's noise; the difference of two has 1.4 times as much
_LEAST_DRIFT = 1e-5  # the tolerance of float32
_LAST_BIT = {"bfloat16": 2.0**-7, "float16": 2.0**-10}  # of a number from 1 to 2


@dataclass(frozen=True, slots=True)
class TokenDivergence:
    """The first token that two generations do not share: ``step`` of the prompt ``batch_index``.

    ``expected`` and ``received`` are the two tokens as text, or ids if there is no text. ``margin``
    is the sum of both runs' logit margins, by which one logit has moved against the other.
    ``noise`` is the part that the drift of the logits at that step explains. Both are in logits.
    """

    batch_index: int
    step: int
    expected: str
    received: str
    margin: float
    noise: float

    @property
    def is_near_tie(self) -> bool:
        """Whether the noise of this step explains the other choice."""
        return math.isfinite(self.margin) and self.margin <= self.noise

    @property
    def tokens(self) -> str:
        """The step and both tokens: ``step 3: ' a' -> ' the'``."""
        return f"step {self.step}: {self.expected} -> {self.received}"

    @property
    def closeness(self) -> str:
        """A near tie in words: the tokens, the margin and the noise."""
        return f"near tie at {self.tokens}, margin {self.margin:.2g}, noise {self.noise:.2g}"


def first_mismatch(before: Sequence[int], now: Sequence[int]) -> int:
    """Return the index of the first number that differs, or the length of the shorter sequence."""
    pairs = enumerate(zip(before, now, strict=False))
    return next((at for at, (old, new) in pairs if old != new), min(len(before), len(now)))


def divergence_location(golden: Run, received: Run) -> tuple[int, int] | None:
    """Return step and batch index of the first generated token that differs, if any."""
    if golden.generated is None or received.generated is None:
        return None
    prompts = zip(golden.generated.token_ids, received.generated.token_ids, strict=False)
    locations = (
        (first_mismatch(old, new), index) for index, (old, new) in enumerate(prompts) if old != new
    )
    return min(locations, default=None)


def shared_calls(golden: Run, received: Run, location: tuple[int, int]) -> Sequence[Call]:
    """Return the golden's calls of the steps that both runs computed from the same tokens.

    ``location`` is that of their divergence: then they continue different texts. If one generation
    ended there, only the other computed that step.
    """
    step, index = location
    ends = [len(run.generated.token_ids[index]) for run in (golden, received) if run.generated]
    return golden.calls[: calls_until(golden, step - 1 if step >= min(ends) else step)]


def calls_until(run: Run, step: int) -> int:
    """Return how many calls belong to the steps up to ``step``.

    A step ends with the module that ends the run, such as the model itself or its head. Other
    modules may be called more often, or, like an encoder, in the first step only.
    """
    assert run.generated is not None
    steps = max((len(row) for row in run.generated.token_ids), default=0)
    if not run.calls or not steps:
        return len(run.calls)
    ends, calls_a_step = ends_of_steps(run, steps)
    last = (step + 1) * calls_a_step
    return 0 if last <= 0 else ends[last - 1] + 1 if last <= len(ends) else len(run.calls)


def first_divergence(
    golden: Run, received: Run, values: Mapping[tuple[int, str], Distance]
) -> TokenDivergence | None:
    """Describe the first token that differs; ``values`` are the distances of all tensors."""
    location = divergence_location(golden, received)
    if location is None:
        return None
    step, index = location
    (before, margin), (now, other) = (_chosen(run, index, step) for run in (golden, received))
    is_greedy = golden.prompt.generation.get("do_sample") is False
    return TokenDivergence(
        batch_index=index,
        step=step,
        expected=before,
        received=now,
        margin=margin + other if is_greedy else math.inf,
        noise=_logit_noise(golden, index, step, values),
    )


def _chosen(run: Run, index: int, step: int) -> tuple[str, float]:
    """Return a generated token as text, or its id, and its logit margin, infinity if unknown."""
    assert run.generated is not None
    ids, pieces = run.generated.token_ids[index], run.generated.pieces[index : index + 1]
    numbers = np.frombuffer(b"".join(run.generated.margins[index : index + 1]), "<f4")
    margin = float(numbers[step]) if step < len(numbers) else math.inf
    if step >= len(ids):
        return "end", margin
    text = "".join(pieces[0][step : step + 1]) if pieces else ""
    return repr(text) if text else f"id {ids[step]}", margin


def _logit_noise(
    golden: Run, index: int, step: int, values: Mapping[tuple[int, str], Distance]
) -> float:
    """Return by how much the drift of all logits at a step may move one logit against another.

    The drift of a token is the norm of its change over its norm. A change that is spread evenly
    moves each of ``n`` logits by the norm of the change over the root of ``n``. Logits that are
    equal bit by bit have no noise, others at least that of float32 on other kernels. In half types
    the logits themselves are rounded: each of the two margins may be off by a last bit.
    """
    for position, call in enumerate(golden.calls):
        has_logits = call.path == ROOT or call.path.endswith("lm_head")
        for leaf in call.leaves if has_logits and call.visit == step else ():
            drift, summary = values.get((position, leaf.at)), leaf.summary
            if leaf.at not in ("out", "out.logits") or drift is None or not summary.norms:
                continue
            if len(summary.shape) != 3 or index >= summary.shape[0]:
                continue
            norm = read_norms(summary.norms)[(index + 1) * summary.shape[1] - 1]
            if drift.is_same:
                return 0.0
            moved = max(drift.rms, _LEAST_DRIFT) * norm / np.sqrt(summary.shape[2])
            bit = _LAST_BIT.get(golden.environment.dtype, 0.0)
            largest = max(abs(summary.maximum or 0.0), abs(summary.minimum or 0.0))
            return float(_SIGMAS * moved + 2 * bit * 2.0 ** math.frexp(largest)[1] / 2)
    return 0.0
