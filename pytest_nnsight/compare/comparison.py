"""Two runs -> drifts: what differs is measured once, and then judged by a tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pytest_nnsight.compare.distance import Distance, distances, most_changed_statistic
from pytest_nnsight.compare.drift import Drift, Pairs, compare_structure, leaf_label
from pytest_nnsight.compare.model_changes import numeric_differences
from pytest_nnsight.compare.pairing import inputs_and_outputs, is_input
from pytest_nnsight.compare.pooling import pool
from pytest_nnsight.compare.positions import RealTokens
from pytest_nnsight.compare.run_inputs import compare_inputs, first_difference
from pytest_nnsight.compare.timeline import LeafKey, Value, timeline
from pytest_nnsight.compare.token_divergence import (
    TokenDivergence,
    divergence_location,
    first_divergence,
    shared_calls,
)
from pytest_nnsight.compare.tolerance import Tolerance, has_half_type, tolerance_for
from pytest_nnsight.compare.visits import align_visits
from pytest_nnsight.run import Call, Run, with_weights


@dataclass(frozen=True, slots=True)
class Bits:
    """The number of calls that differ in any bit, and the label of the first of them.

    ``is_expected`` tells whether all bits should be equal: nothing that may change numbers differs
    between the two environments. Otherwise ``reason`` says what differs.
    """

    count: int
    first: str
    is_expected: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Measurement:
    """What differs between two runs, whatever drift is allowed.

    ``before`` and ``after`` are the drifts that are listed before and after those of values.
    """

    golden: Run
    pairs: Pairs
    distances: Mapping[LeafKey, Distance]
    timeline: tuple[Value, ...]
    bits: Bits
    divergence: TokenDivergence | None
    before: tuple[Drift, ...]
    after: tuple[Drift, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences of two runs.

    ``values`` are the distances of all tensors that were compared, by their location in the golden.
    ``calls`` counts the calls of either run. ``divergence`` is the first generated token that
    differs; calls after it are not compared, since they continue another text. ``timeline`` are the
    golden's values in order of time. With ``accepts_structure`` another structure with equal values
    matches.
    """

    drifts: tuple[Drift, ...]
    calls: int
    tolerance: Tolerance
    bits: Bits
    values: Mapping[LeafKey, Distance] = field(default_factory=dict, repr=False)
    divergence: TokenDivergence | None = None
    timeline: tuple[Value, ...] = field(default=(), repr=False)
    accepts_structure: bool = False

    @property
    def failures(self) -> tuple[Drift, ...]:
        """The drifts that make a test fail."""
        if self.accepts_structure and self.structural_changes:
            return ()
        return tuple(drift for drift in self.drifts if not drift.note)

    @property
    def structural_changes(self) -> tuple[Drift, ...]:
        """Other containers, output names and classes; none if a value differs or is missing."""
        drifts = tuple(drift for drift in self.drifts if not drift.note)
        return drifts if all(drift.is_structural for drift in drifts) else ()

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
    that should be equal. ``received.structure`` is ``strict``, or ``values`` to accept a change of
    the structure alone.

    ``read_weights`` reads the fingerprint of the received weights. It is called once, and only if
    something fails: with weights known to be the same, more may be rounding.
    """
    measurement = measure(golden, received)
    comparison = judge(measurement, received)
    if comparison.matches or read_weights is None:
        return comparison
    return judge(measurement, with_weights(received, read_weights()))


def measure(golden: Run, received: Run) -> Measurement:
    """Pair the calls and tensors of two runs and estimate the distance of each pair."""
    received = align_visits(golden, received)
    location = divergence_location(golden, received)
    calls = golden.calls if location is None else shared_calls(golden, received, location)
    real_tokens = RealTokens(golden)
    structure, later, pairs = compare_structure(golden, received, calls)
    if location is not None:  # the runs continue different texts
        later = [drift for drift in later if drift.kind != "added"]
    real = [real_tokens.of(position, old) for (position, _), (old, _) in pairs.items()]
    estimates = distances([(old.summary, new.summary) for old, new in pairs.values()], real)
    apart = dict(zip(pairs, estimates, strict=True))
    partners = {key: id(new.summary) for key, (_, new) in pairs.items()}
    in_time = timeline([*_without_unpaired_inputs(calls, received)], partners)
    apart |= pool(in_time, apart)
    positions = {position for (position, _), found in apart.items() if not found.is_same}
    first = calls[min(positions)].label if positions else ""
    masks = [drift for drift in structure if drift.kind == "mask"]
    structure = [drift for drift in structure if drift not in masks[1:]]
    reason = numeric_differences(golden.environment, received.environment)
    divergence = first_divergence(golden, received, apart)
    return Measurement(
        golden,
        pairs,
        apart,
        tuple(in_time),
        Bits(len(positions), first, not reason, reason),
        divergence,
        before=(*compare_inputs(golden, received), *structure),
        after=(*later, *_generated(golden, received, divergence, reason)),
    )


def _without_unpaired_inputs(calls: Sequence[Call], received: Run) -> Iterator[Call]:
    """Drop the inputs of a call whose inputs the received run did not record.

    A generation may record inputs at fewer steps. An input without a partner would count as equal,
    and a drift that comes in with it would seem to start in the call.
    """
    others = {call.key: call for call in received.calls}
    for call in calls:
        other = others.get(call.key, call)
        if other.inputs is None and not any(map(is_input, other.leaves)):
            call = call._replace(leaves=tuple(inputs_and_outputs(call)[1]))
        yield call


def judge(measurement: Measurement, received: Run) -> Comparison:
    """Turn what was measured into drifts, by the rules and the weights of ``received``."""
    golden, bits = measurement.golden, measurement.bits
    tolerance = tolerance_for(golden, received, bits_are_expected=bits.is_expected)
    limits = tolerance.onsets(measurement.timeline, measurement.distances)
    if received.is_exact and bits.is_expected:
        limits = dict.fromkeys(measurement.distances, 0.0)
    values = _values(measurement, tolerance, limits)
    padding = _padding_note(measurement, tolerance)
    added = sum(drift.kind == "added" for drift in measurement.after)
    return Comparison(
        (*measurement.before, *values, *measurement.after, *padding),
        len(golden.calls) + added,
        tolerance,
        bits,
        measurement.distances,
        measurement.divergence,
        measurement.timeline,
        received.structure == "values",
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
        call = measurement.golden.calls[key[0]]
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


def _padding_note(measurement: Measurement, tolerance: Tolerance) -> Iterator[Drift]:
    """Yield one note if padding differs by more than real tokens may."""
    sizes = {key: each.padded for key, each in measurement.distances.items()}
    keys = [value.key for value in measurement.timeline if sizes.get(value.key, 0) > tolerance.rel]
    if keys:
        (position, at), golden = keys[0], measurement.golden
        call, size = golden.calls[position], max(sizes.values())
        leaf = next(leaf for leaf in call.leaves if leaf.at == at)
        drift = Drift("padding", leaf_label(call, leaf), call.path, note=True, position=position)
        yield replace(drift, distance=Distance(worst=size))


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
