"""Two runs -> drifts: what was measured, judged by a tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from pytest_nnsight.compare.bits import Bits
from pytest_nnsight.compare.distance import Distance, most_changed_statistic
from pytest_nnsight.compare.drift import Drift
from pytest_nnsight.compare.measurement import Measurement, leaf_label, measure
from pytest_nnsight.compare.run_inputs import first_difference
from pytest_nnsight.compare.timeline import LeafKey, Value
from pytest_nnsight.compare.token_divergence import TokenDivergence
from pytest_nnsight.compare.tolerance import Tolerance, has_half_type, tolerance_for
from pytest_nnsight.run import Run, with_weights


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences of two runs.

    ``values`` are the distances of all tensors that were compared, by their location in the golden.
    ``calls`` counts the calls of either run. ``divergence`` is the first generated token that
    differs; calls after it are not compared, since they continue another text. ``timeline`` are the
    golden's values in order of time.
    """

    drifts: tuple[Drift, ...]
    calls: int
    tolerance: Tolerance
    bits: Bits
    values: Mapping[LeafKey, Distance] = field(default_factory=dict, repr=False)
    divergence: TokenDivergence | None = None
    timeline: tuple[Value, ...] = field(default=(), repr=False)

    @property
    def failures(self) -> tuple[Drift, ...]:
        """The drifts that make a test fail."""
        return tuple(drift for drift in self.drifts if not drift.note)

    @property
    def matches(self) -> bool:
        """Whether nothing differs by more than is allowed."""
        return not self.failures

    @property
    def noise(self) -> float:
        """The largest relative drift of a tensor, over all of its tokens."""
        return max((value.rms for value in self.values.values()), default=0.0)


def compare(
    golden: Run, received: Run, read_weights: Callable[[], str | None] | None = None
) -> Comparison:
    """Compare two runs by the rules that ``received`` carries.

    ``received.tolerance`` overrides the default of the dtypes. ``received.tokens`` is ``exact``, or
    ``close`` to accept another generated token in a near tie; ``auto`` is close in half types where
    something else than the weights may move numbers. With ``received.is_exact`` every bit counts
    that should be equal.

    ``read_weights`` reads the fingerprint of the received weights. It is called once, and only if
    something fails: with weights known to be the same, more may be rounding.
    """
    measurement = measure(golden, received)
    comparison = judge(measurement, received)
    if comparison.matches or read_weights is None:
        return comparison
    return judge(measurement, with_weights(received, read_weights()))


def judge(measurement: Measurement, received: Run) -> Comparison:
    """Turn what was measured into drifts, by the rules and the weights of ``received``."""
    golden, bits = measurement.golden, measurement.bits
    tolerance = tolerance_for(golden, received, bits_are_expected=bits.is_expected)
    limits = tolerance.onsets(measurement.timeline, measurement.distances)
    if received.is_exact and bits.is_expected:
        limits = dict.fromkeys(measurement.distances, 0.0)
    drifts = (
        *measurement.before,
        *_values(measurement, tolerance, limits),
        *measurement.after,
        *_generated(golden, received, measurement.divergence, bits.reason),
    )
    return Comparison(
        drifts,
        measurement.call_count,
        tolerance,
        bits,
        measurement.distances,
        measurement.divergence,
        measurement.timeline,
    )


def _values(
    measurement: Measurement, tolerance: Tolerance, limits: Mapping[LeafKey, float]
) -> Iterator[Drift]:
    """Yield the tensors that drift by more than is allowed, or than their entry in ``limits``."""
    statistics: dict[tuple[int, int], tuple[str, str]] = {}  # many locations share one tensor
    for key, (old, new) in measurement.pairs.items():
        distance, limit = measurement.distances[key], limits.get(key)
        if distance.is_same or (limit is None and not tolerance.is_exceeded(distance, old.summary)):
            continue
        call = measurement.calls[key[0]]
        allowed = tolerance.allowed_for(old.summary) if old.summary.sketch else 0.0
        both = (id(old.summary), id(new.summary))
        if both not in statistics:
            statistics[both] = most_changed_statistic(old.summary, new.summary)
        yield Drift(
            "values",
            leaf_label(call, old),
            call.path,
            distance,
            allowed if limit is None else limit,
            *statistics[both],
            position=key[0],
        )


def _generated(
    golden: Run, received: Run, divergence: TokenDivergence | None, reason: str
) -> Iterator[Drift]:
    """Yield the first generated token that differs; a near tie is a note if tokens may be close.

    ``reason`` says what may move numbers, if anything.
    """
    if divergence is None or golden.generated is None or received.generated is None:
        return
    before, now = golden.generated.token_ids, received.generated.token_ids
    expected, got = first_difference(before, now)
    is_close = reason and has_half_type(golden, received)
    rule = received.tokens if received.tokens != "auto" else "close" if is_close else "exact"
    note = rule == "close" and divergence.is_near_tie
    yield Drift("ids", "generated", expected=expected, received=got, note=note)
